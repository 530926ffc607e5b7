"""The picture of the argument: what each policy does at the obstacle, many rollouts drawn from above.

    python -m benchmark.modes

Trains each script on 200 demonstrations of LaneChange-v0, all else default, and writes benchmark/figures/modes.png.
"""

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.patches import Rectangle

from benchmark.run import ROOT, trained
from experts import load_expert, make_envs, rollout
from experts.driving import ROAD_HALF_WIDTH

SCRIPTS = {
    "bc_mse": "squared loss",
    "bc_gaussian": "a Gaussian, drawn from",
    "bc_mog": "mixture of Gaussians",
    "bc_autoregressive": "bins, one dimension after another",
    "bc_diffusion": "diffusion",
}
FLAGS = {"bc_gaussian": ["--stochastic"]}
NUM_ROLLOUTS, SEED = 100, 1


def act_of(script):
    """What a policy of the script does, trained as people train it."""
    policy, _ = trained(script, "LaneChange-v0", SEED, "--num-demos", "200", *FLAGS.get(script, []))
    return lambda obs: policy.act(torch.as_tensor(obs)).numpy()


def trails(act):
    """(path (T, 2), success) of each rollout."""
    envs = make_envs("LaneChange-v0", NUM_ROLLOUTS)
    found = [None] * (NUM_ROLLOUTS + 1)
    for episode, _, _, _, done, infos in rollout(envs, act, NUM_ROLLOUTS, seed=1_000_000 * SEED + 600_000):
        for i in np.flatnonzero(done):
            found[episode[i]] = np.array(envs.envs[i].unwrapped.trail), bool(infos["is_success"][i])
    return found[:-1]


def draw(axis, name, rollouts, obstacle_x=45.0, road_length=60.0):
    passed = sum(success for _, success in rollouts)
    axis.add_patch(Rectangle((-3, -ROAD_HALF_WIDTH), road_length + 3, 2 * ROAD_HALF_WIDTH, color="#e9eaec", zorder=0))
    for y in (-ROAD_HALF_WIDTH / 3, ROAD_HALF_WIDTH / 3):
        axis.plot([-3, road_length], [y, y], color="white", linestyle=(0, (8, 8)), linewidth=2, zorder=1)
    axis.add_patch(Rectangle((obstacle_x - 2.25, -1.0), 4.5, 2.0, color="#2b2d31", zorder=3))
    for path, success in rollouts:
        axis.plot(*path.T, color="#2a6fdb" if success else "#d1352b", alpha=0.35, linewidth=1.0, zorder=2)
        if not success:
            axis.plot(*path[-1], "x", color="#d1352b", markersize=5, zorder=4)
    axis.set(xlim=(-3, road_length), ylim=(-ROAD_HALF_WIDTH, ROAD_HALF_WIDTH), yticks=[-3.6, 0, 3.6], ylabel="y in m")
    axis.set_title(f"{name}: {passed} of {len(rollouts)} pass", loc="left", fontsize=11)
    axis.spines[:].set_visible(False)


def main():
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    expert = load_expert("LaneChange-v0", seed=SEED + 100)
    panels = {"expert": trails(expert)}
    panels |= {f"{script}.py, {what}": trails(act_of(script)) for script, what in SCRIPTS.items()}
    figure, axes = plt.subplots(len(panels), 1, figsize=(8, 1.75 * len(panels)), sharex=True, layout="constrained")
    for axis, (name, rollouts) in zip(axes, panels.items(), strict=True):
        draw(axis, name, rollouts)
    axes[-1].set_xlabel("x in m")
    figure.savefig(ROOT / "benchmark" / "figures" / "modes.png", dpi=120)


if __name__ == "__main__":
    main()
