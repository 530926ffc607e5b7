"""The picture of the closed loop: return against labels, by who chose the labelled states.

    python -m benchmark.closed_loop

Draws benchmark/figures/closed_loop.png from the committed results of
`python -m benchmark.run --grid closed`.
"""

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from benchmark.run import CLOSED, LOCOMOTION, ROOT, results_of
from benchmark.scores import normalised

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
    """One task: a curve for each seed, and a point for its final policy."""
    rows, _ = CLOSED[env_id]
    axis.axhline(1, color="black", linewidth=0.8, linestyle=":")
    for row in rows:
        label, colour = STYLE[row.split()[0]]
        marker = "o"
        if "--num-rounds 0" in row:
            label, colour = STYLE["bc"]
            if "--label-share" in row:
                label += ", every fifth or tenth\nlabel of its demonstrations"
            else:
                label += ", all labels\nof its demonstrations"
                marker = "D"
        for curve in curves(env_id, row):
            axis.plot(*curve.T, "-", color=colour, alpha=0.6, linewidth=1.5)
            axis.plot(*curve[-1], marker, color=colour, markersize=4, label=label)
    axis.set(xscale="log", ylim=(-0.03, 1.08), title=env_id)
    low, high = axis.get_xlim()
    ticks = [100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 40_000]
    ticks = [tick for tick in ticks if low < tick < high]
    axis.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axis.minorticks_off()
    axis.spines[["top", "right"]].set_visible(False)


def main():
    figure, axes = plt.subplots(2, 3, figsize=(10, 5.6), sharey=True, layout="constrained")
    *panels, legend = axes.ravel()
    for axis, env_id in zip(panels, LOCOMOTION, strict=True):
        draw(axis, env_id)
    for axis in panels:
        axis.set_xlabel("expert labels")
    for axis in axes[:, 0]:
        axis.set_ylabel("return, the expert's is 1")
    handles, labels = panels[0].get_legend_handles_labels()
    entries = dict(zip(labels, handles, strict=True))  # one of each
    legend.legend(entries.values(), entries.keys(), frameon=False, loc="center left")
    legend.axis("off")
    figure.savefig(ROOT / "benchmark" / "figures" / "closed_loop.png", dpi=130)


if __name__ == "__main__":
    main()
