"""The picture of the closed loop: return against labels, by who chose the states that were labelled.

    python -m benchmark.closed_loop

Draws benchmark/figures/closed_loop.png from the committed results of `python -m benchmark.run --grid closed`.
"""

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from benchmark.report import results_of
from benchmark.run import CLOSED, LABELS, ROOT

STYLE = {"dagger": ("DAgger", "#2a6fdb"), "hg_dagger": ("HG-DAgger", "#e08a1e"), "bc": ("behaviour cloning", "#6b6f76")}


def normalised(result, value):
    return (value - result["random_return"]) / (result["expert_return"] - result["random_return"])


def curves(env_id, row):
    """(labels, normalised return) of each seed: by round, or of the finished policy where there are no rounds."""
    for result in results_of(env_id, row):
        rounds = result["rounds"]
        if len(rounds) == 1:
            yield np.array([[result["expert_labels"], result["normalized_return"]]])
        else:
            curve = [[line["expert_labels"], normalised(result, line["return_mean"])] for line in rounds]
            curve[-1][1] = result["normalized_return"]  # the final evaluation has more episodes
            yield np.array(curve)


def draw(axis, env_id):
    bc = [row for row in CLOSED[env_id] if "--num-rounds 0" in row]
    points = np.array([np.concatenate(list(curves(env_id, row))) for row in bc])  # (rows, seeds, 2)
    label, colour = STYLE["bc"]
    axis.plot(*points.mean(axis=1).T, "o-", color=colour, label=label)
    axis.plot(points[..., 0].ravel(), points[..., 1].ravel(), ".", color=colour, alpha=0.5, markersize=4)
    for row in (row for row in CLOSED[env_id] if row not in bc):
        label, colour = STYLE[row.split()[0]]
        for i, curve in enumerate(curves(env_id, row)):
            axis.plot(*curve.T, "-", color=colour, alpha=0.6, linewidth=1.5, label=label if i == 0 else None)
            axis.plot(*curve[-1], "o", color=colour, markersize=4)
    axis.axhline(1, color="black", linewidth=0.8, linestyle=":")
    axis.set(xscale="log", ylim=(-0.03, 1.08), xlabel="expert labels", title=env_id)
    low, high = axis.get_xlim()
    ticks = (100, 200, 500, 1000, 2000, 5000) if high / low > 3 else range(500, 10_000, 500)
    ticks = [tick for tick in ticks if low < tick < high]
    axis.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axis.minorticks_off()
    axis.spines[["top", "right"]].set_visible(False)


def main():
    figure, axes = plt.subplots(1, len(LABELS), figsize=(4.2 * len(LABELS), 3.6), sharey=True, layout="constrained")
    for axis, env_id in zip(axes, LABELS, strict=True):
        draw(axis, env_id)
    axes[0].set_ylabel("return, the expert's is 1")
    axes[0].legend(frameon=False, loc="upper left", bbox_to_anchor=(0, 0.95))
    figure.savefig(ROOT / "benchmark" / "figures" / "closed_loop.png", dpi=130)


if __name__ == "__main__":
    main()
