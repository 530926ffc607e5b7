"""The two ends of the argument as animations.

    python -m benchmark.animation road
    MUJOCO_GL=egl python -m benchmark.animation humanoid

The road: four episodes of LaneChange-v0 by its expert, squared loss and a mixture, of 200
demonstrations. Humanoid-v4: one episode by its expert, by bc_mse.py and dart.py after ten
demonstrations, plain and disturbed, and by dagger.py after ten and thirty episodes of its own, from
the first start of the evaluation in which the clone falls. Writes benchmark/figures/road.webp and
humanoid.webp.
"""

from itertools import chain, count
from typing import Literal

import gymnasium as gym
import numpy as np
import torch
import tyro
from PIL import Image, ImageDraw, ImageFont

from benchmark.grids import ROAD, Row
from benchmark.run import ROOT, trained
from experts import load_expert

ENV_ID = "Humanoid-v4"
SEED = 4
ROWS = {
    "cloning, 10 episodes": Row("bc_mse"),
    "DART, 10 episodes": Row("dart"),
    "DAgger, 40 episodes": Row("dagger", "--num-rounds 15 --episodes-per-round 2 --num-envs 5"),
}
NUM_STEPS = 300  # 4.5 s of the simulation
EVERY = 4  # steps between frames, which follow each other in real time
SIZE = 230  # of a panel, in pixels


def play(act, seed):
    """The frames of an episode, which goes on after a fall; and whether there was one."""
    picture = {"render_mode": "rgb_array", "width": SIZE, "height": SIZE, "camera_name": "track"}
    env = gym.make(ENV_ID, terminate_when_unhealthy=False, **picture)
    obs, _ = env.reset(seed=seed)
    frames = []
    fell = False
    for step in range(NUM_STEPS):
        obs, *_ = env.step(act(obs[None])[0])
        fell = fell or not env.unwrapped.is_healthy
        if step % EVERY == 0:
            frames.append(env.render())
    env.close()
    return frames, fell


def drive(act, seed):
    """The frames of an episode, ten for each second of driving; the last stays for a second."""
    env = gym.make("LaneChange-v0", render_mode="rgb_array_list")
    obs, _ = env.reset(seed=seed)
    done = False
    while not done:
        obs, _, done, *_ = env.step(act(obs[None])[0])
    frames = env.render()
    env.close()
    return frames[::2] + [frames[-1]] * 10


def in_step(episodes):
    """Frames of several drivers, each an episode, as long as the longest of them."""
    length = max(map(len, episodes))
    return [frames + [frames[-1]] * (length - len(frames)) for frames in episodes]


def labelled(frames, name, place):
    font = ImageFont.load_default(size=18)
    for frame in frames:
        image = Image.fromarray(frame)
        ImageDraw.Draw(image).text(place, name, fill="white", font=font)
        yield np.array(image)


def save(panels, name, axis, duration):
    """An animation of panels beside (axis 1) or above each other (axis 0)."""
    pictures = [Image.fromarray(np.concatenate(row, axis)) for row in zip(*panels, strict=True)]
    options = {"duration": duration, "loop": 0, "quality": 60, "method": 6}
    path = ROOT / "benchmark" / "figures" / f"{name}.webp"
    pictures[0].save(path, save_all=True, append_images=pictures[1:], **options)


def road():
    acts = {"the expert": load_expert("LaneChange-v0", seed=2)}
    for name, script in (("squared loss", "bc_mse"), ("mixture of Gaussians", "bc_mog")):
        policy, _ = trained("LaneChange-v0", Row(script, ROAD), 21)
        acts[name] = policy.act
    episodes = [in_step([drive(act, seed) for act in acts.values()]) for seed in range(4)]
    panels = [list(chain(*frames)) for frames in zip(*episodes, strict=True)]
    names = zip(panels, acts, strict=True)
    save([list(labelled(frames, name, (480, 9))) for frames, name in names], "road", 0, 100)


def humanoid():
    acts = {"the expert": load_expert(ENV_ID)}
    for name, row in ROWS.items():
        policy, _ = trained(ENV_ID, row, SEED)
        acts[name] = policy.act

    start = 1_000_000 * SEED + 500_000  # where the evaluation begins
    clone = acts["cloning, 10 episodes"]
    seed = next(seed for seed in count(start) if play(clone, seed)[1])
    panels = []
    for name, act in acts.items():
        frames, fell = play(act, seed)
        print(f"{name}: {'falls' if fell else 'walks on'} (start {seed - start + 1})", flush=True)
        panels.append(list(labelled(frames, name, (10, 8))))
    save(panels, "humanoid", 1, EVERY * 15)  # a step is 15 ms


def main(which: tyro.conf.Positional[Literal["road", "humanoid"]]):
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    road() if which == "road" else humanoid()


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
