"""The picture of the closed loop: return against labels, by who chose the labelled states.

    python -m benchmark.closed_loop

Draws benchmark/figures/closed_loop.png from the committed results of
`python -m benchmark.run --grid closed`.
"""

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from benchmark.run import CLOSED, ROOT, results_of
from benchmark.scores import normalised

ENV_IDS = ["Hopper-v4", "Walker2d-v4"]
STYLE = {
    "bc": ("cloning", "#6b6f76"),
    "dagger": ("DAgger", "#2a6fdb"),
    "hg_dagger": ("HG-DAgger", "#e08a1e"),
}


def curves(env_id, row):
    """(labels, normalised return) of each seed: by round, or of the finished policy of cloning."""
    _, seeds = CLOSED[env_id]
    for result in results_of(env_id, row, seeds):
        if len(result["rounds"]) == 1:
            curve = [[result["expert_labels"], result["return_mean"]]]
        else:
            curve = [[line["expert_labels"], line["return_mean"]] for line in result["rounds"]]
            curve[-1][1] = result["return_mean"]  # the final evaluation has more episodes
        curve = np.array(curve, dtype=float)
        curve[:, 1] = normalised(env_id, curve[:, 1])
        yield curve


def draw(axis, env_id):
    rows, _ = CLOSED[env_id]
    cloning = [row for row in rows if "--num-rounds 0" in row]
    for marker, what in (("o", "scattered labels"), ("D", "all labels")):
        scattered = what == "scattered labels"
        chosen = [row for row in cloning if ("--label-every" in row) == scattered]
        points = np.array([np.concatenate(list(curves(env_id, row))) for row in chosen])
        label, colour = STYLE["bc"]
        axis.plot(*points.mean(axis=1).T, marker, color=colour, label=f"{label}, {what} (mean)")
        axis.plot(points[..., 0].ravel(), points[..., 1].ravel(), ".", color=colour, alpha=0.5)
    for row in rows:
        if row in cloning:
            continue
        label, colour = STYLE[row.split()[0]]
        for curve in curves(env_id, row):
            axis.plot(*curve.T, "-", color=colour, alpha=0.6, linewidth=1.5, label=label)
            axis.plot(*curve[-1], "o", color=colour, markersize=4)
            label = None  # one entry in the legend
    axis.axhline(1, color="black", linewidth=0.8, linestyle=":")
    axis.set(xscale="log", ylim=(-0.03, 1.08), xlabel="expert labels", title=env_id)
    low, high = axis.get_xlim()
    ticks = [tick for tick in (100, 200, 500, 1000, 2000, 5000) if low < tick < high]
    axis.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axis.minorticks_off()
    axis.spines[["top", "right"]].set_visible(False)


def main():
    size = (4.2 * len(ENV_IDS), 3.6)
    figure, axes = plt.subplots(1, len(ENV_IDS), figsize=size, sharey=True, layout="constrained")
    for axis, env_id in zip(axes, ENV_IDS, strict=True):
        draw(axis, env_id)
    axes[0].set_ylabel("return, the expert's is 1")
    axes[1].legend(frameon=False, loc="center left", bbox_to_anchor=(0, 0.6), fontsize=8)
    figure.savefig(ROOT / "benchmark" / "figures" / "closed_loop.png", dpi=130)


if __name__ == "__main__":
    main()
