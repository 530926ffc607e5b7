"""The picture of the argument: what each policy does at the obstacle, many rollouts from above.

    python -m benchmark.modes

Trains each script on 200 demonstrations of LaneChange-v0, as in the tables, and writes
benchmark/figures/modes.png.
"""

import gymnasium as gym
import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.patches import Rectangle

from benchmark.grids import DRAWN, ROAD, Row
from benchmark.run import ROOT, trained
from experts import load_expert
from experts.driving import FIRST_OBSTACLE, ROAD_HALF_WIDTH

ROWS = {
    "bc_mse.py, squared loss": Row("bc_mse", ROAD),
    "bc_gaussian.py, the mean": Row("bc_gaussian", ROAD),
    "bc_gaussian.py, draws": DRAWN,
    "bc_mog.py, mixture of Gaussians": Row("bc_mog", ROAD),
    "bc_autoregressive.py, bins": Row("bc_autoregressive", ROAD),
    "bc_diffusion.py, diffusion": Row("bc_diffusion", ROAD),
    "bc_flow.py, flow matching": Row("bc_flow", ROAD),
}
NUM_ROLLOUTS = 100
SEED = 21  # the first of the table


def trails(act):
    """(path (T, 2), "L", "R" or None for a crash) of each rollout."""
    env = gym.make("LaneChange-v0")
    found = []
    for k in range(NUM_ROLLOUTS):
        obs, _ = env.reset(seed=1_000_000 * SEED + 500_000 + k)
        done = False
        while not done:
            obs, _, done, _, info = env.step(act(obs[None])[0])
        side = info["mode"] if info["is_success"] else None
        found.append((np.array(env.unwrapped.trail), side))
    return found


def draw(axis, name, rollouts, obstacle_x=FIRST_OBSTACLE, end=42.0):
    """Up to a little behind the obstacle: after that all are free to change lanes again."""
    sides = [side for _, side in rollouts]
    width = 2 * ROAD_HALF_WIDTH
    corner = (-3, -ROAD_HALF_WIDTH)
    axis.add_patch(Rectangle(corner, end + 3, width, color="#e9eaec", zorder=0))
    dashes = {"color": "white", "linestyle": (0, (8, 8)), "linewidth": 2, "zorder": 1}
    for y in (-width / 6, width / 6):
        axis.plot([-3, end], [y, y], **dashes)
    axis.add_patch(Rectangle((obstacle_x - 2.25, -1.0), 4.5, 2.0, color="#2b2d31", zorder=3))
    for path, side in rollouts:
        color = "#2a6fdb" if side else "#d1352b"
        axis.plot(*path.T, color=color, alpha=0.35, linewidth=1.0, zorder=2)
        if not side:
            axis.plot(*path[-1], "x", color=color, markersize=5, zorder=4)
    axis.set(xlim=(-3, end), ylim=(-width / 2, width / 2), yticks=[-3.6, 0, 3.6])
    counts = f"{sides.count('L')} left, {sides.count('R')} right, {sides.count(None)} crash"
    axis.set_title(f"{name}: {counts}", loc="left", fontsize=10)
    axis.spines[:].set_visible(False)


def main():
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    expert = load_expert("LaneChange-v0", seed=SEED + 100)
    panels = {"expert": trails(expert)}
    for name, row in ROWS.items():
        policy, _ = trained("LaneChange-v0", row, SEED)
        panels[name] = trails(policy.act)
    figure, axes = plt.subplots(4, 2, figsize=(10, 5.8), sharex=True, layout="constrained")
    for axis, (name, rollouts) in zip(axes.flat, panels.items(), strict=True):
        draw(axis, name, rollouts)
    for axis in axes[:, 0]:
        axis.set_ylabel("y in m")
    for axis in axes[-1]:
        axis.set_xlabel("x in m")
    figure.savefig(ROOT / "benchmark" / "figures" / "modes.png", dpi=120)


if __name__ == "__main__":
    main()
