"""What a label buys: return against the expert's labels, and against the episodes it took part in.

    python -m benchmark.labels

Draws benchmark/figures/labels.png from the committed results of
`python -m benchmark.run --grid labels`.
"""

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from benchmark.run import LABELS, LOCOMOTION, NUM_DEMOS, ROOT, labelled_by, results_of
from benchmark.scores import normalised

COLOURS = {
    "cloning": "#6b6f76",
    "DART": "#2f9e5f",
    "DAgger": "#2a6fdb",
    "HG-DAgger, one network": "#f0b45a",
    "HG-DAgger, five networks": "#d1670a",
}
ENOUGH = 0.95


def measured(env_id, method):
    """Numbers of episodes, labels (n, seeds) and normalised returns (n, seeds): what was run.

    A first demonstration is the same for all but DART: the DAggers begin where cloning does.
    """
    _, seeds = LABELS[env_id]
    cells = []
    for num_episodes in NUM_DEMOS:
        is_first = num_episodes == 1 and method != "DART"
        row = labelled_by("cloning" if is_first else method, num_episodes)
        results = results_of(env_id, row, seeds)
        if len(results) == len(seeds):
            labels = [result["expert_labels"] for result in results]
            returns = [normalised(env_id, result["return_mean"]) for result in results]
            cells.append((num_episodes, labels, returns))
    return [np.array(column) for column in zip(*cells, strict=True)] if cells else None


def after_ten_episodes(env_id, method):
    """Labels and normalised returns of each seed; none where it is not run."""
    for num_episodes, *found in zip(*measured(env_id, method) or (), strict=True):
        if num_episodes == 10:
            return found
    return np.zeros(0), np.zeros(0)


def labels_until_enough(labels, returns):
    """Mean labels of the first number of episodes from which on the mean return stays enough."""
    means = returns.mean(axis=1)
    stays = [n for n in range(len(means)) if (means[n:] > ENOUGH).all()]
    return labels[stays[0]].mean() if stays else None


def draw(axes, env_id):
    """One task, twice: against episodes and against labels. A dot is a seed, a line the mean."""
    for method, colour in COLOURS.items():
        found = measured(env_id, method)
        if found is None:
            continue
        num_episodes, labels, returns = found
        for axis, x in (
            (axes[0], np.broadcast_to(num_episodes[:, None], labels.shape)),
            (axes[1], labels),
        ):
            axis.plot(x.mean(axis=1), returns.mean(axis=1), color=colour, linewidth=2, label=method)
            axis.plot(x.ravel(), returns.ravel(), ".", color=colour, alpha=0.5, markersize=4)
    for axis in axes:
        axis.axhline(1, color="black", linewidth=0.8, linestyle=":")
        axis.set(xscale="log", ylim=(-0.03, 1.08))
        axis.minorticks_off()
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_title(env_id)
    axes[0].set_xticks(NUM_DEMOS, NUM_DEMOS)
    axes[1].set_xticks([100, 1000, 10_000], ["100", "1,000", "10,000"])


def main():
    shape = {"sharey": True, "layout": "constrained"}
    figure, axes = plt.subplots(2, len(LOCOMOTION), figsize=(11, 5.2), **shape)
    for column, env_id in zip(axes.T, LOCOMOTION, strict=True):
        draw(column, env_id)
    axes[0, 2].set_xlabel("episodes of the expert's time")
    axes[1, 2].set_xlabel("labels")
    for axis in axes[:, 0]:
        axis.set_ylabel("return, the expert's is 1")
    handles, names = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, frameon=False, loc="outside lower center", ncols=len(names))
    figure.savefig(ROOT / "benchmark" / "figures" / "labels.png", dpi=130)


if __name__ == "__main__":
    main()
