"""The animation of the argument: Humanoid by its expert, a clone, DART and DAgger, from one start.

    MUJOCO_GL=egl python -m benchmark.animation

Trains bc_mse.py and dart.py on ten demonstrations, plain and disturbed, and dagger.py on ten and
thirty episodes of its own; plays each from the first start of the evaluation in which the clone
falls. Writes benchmark/figures/humanoid.webp.
"""

from itertools import count

import gymnasium as gym
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from benchmark.grids import Row
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


def main():
    torch.set_num_threads(1)
    acts = {"the expert": load_expert(ENV_ID)}
    for name, row in ROWS.items():
        policy, _ = trained(row, ENV_ID, SEED)
        acts[name] = policy.act

    start = 1_000_000 * SEED + 500_000  # where the evaluation begins
    clone = acts["cloning, 10 episodes"]
    seed = next(seed for seed in count(start) if play(clone, seed)[1])
    font = ImageFont.load_default(size=18)
    panels = []
    for name, act in acts.items():
        frames, fell = play(act, seed)
        print(f"{name}: {'falls' if fell else 'walks on'} (start {seed - start + 1})", flush=True)
        labelled = []
        for frame in frames:
            image = Image.fromarray(frame)
            ImageDraw.Draw(image).text((10, 8), name, fill="white", font=font)
            labelled.append(np.array(image))
        panels.append(labelled)
    pictures = [Image.fromarray(np.concatenate(row, axis=1)) for row in zip(*panels, strict=True)]
    path = ROOT / "benchmark" / "figures" / "humanoid.webp"
    options = {"duration": EVERY * 15, "loop": 0, "quality": 60, "method": 6}  # a step is 15 ms
    pictures[0].save(path, save_all=True, append_images=pictures[1:], **options)


if __name__ == "__main__":
    main()
