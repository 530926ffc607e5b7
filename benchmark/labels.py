"""What a label buys: return by the expert's episodes and by its labels, on five tasks.

    python -m benchmark.labels

Draws benchmark/figures/episodes.png and labels.png from the results of
`python -m benchmark.run --grid labels`: a small dot is a seed, the line runs through their means.
"""

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from benchmark.grids import DAGGERS, LABELS, LOCOMOTION, METHODS, NUM_DEMOS, labelled_by
from benchmark.run import ROOT, results_of
from benchmark.scores import normalised

ENOUGH = 0.95
COLOURS = ["#6b6f76", "#1f4e94", "#1f4e94", "#e08a1e", "#c0504d", "#7b4ea3"]  # of METHODS


def measured(env_id, method):
    """Numbers of episodes, labels (n, seeds) and normalised returns (n, seeds): what was run.

    A first demonstration is the same for all but DART: the DAggers begin where cloning does.
    """
    _, seeds = LABELS[env_id]
    cells = []
    for num_episodes in NUM_DEMOS:
        row = labelled_by(method, num_episodes)
        if num_episodes == 1 and row.script in DAGGERS:
            row = labelled_by("cloning", 1)
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


def draw(axis, env_id, by_labels):
    for number, (method, colour) in enumerate(zip(METHODS, COLOURS, strict=True)):
        found = measured(env_id, method)
        if found is None or len(found[0]) < 2:
            continue
        num_episodes, labels, returns = found
        aside = 1.04 ** (
            number - len(METHODS) / 2
        )  # so that equal numbers of episodes stand beside each other
        x = labels if by_labels else aside * np.tile(num_episodes[:, None], labels.shape[1])
        axis.plot(x, returns, ".", color=colour, alpha=0.4, markersize=5)
        line = x.mean(axis=1), returns.mean(axis=1)
        axis.plot(*line, "o-", color=colour, markersize=5, label=method)
    axis.axhline(1, color="black", linewidth=0.8, linestyle=":")
    axis.set(xscale="log", ylim=(-0.05, 1.1), title=env_id)
    axis.set_xlabel("labels" if by_labels else "the expert's episodes")
    if not by_labels:
        axis.set_xticks(NUM_DEMOS, map(str, NUM_DEMOS), minor=False)
        axis.set_xticks([], minor=True)
    axis.spines[["top", "right"]].set_visible(False)


def main():
    for name, by_labels in (("episodes", False), ("labels", True)):
        figure, axes = plt.subplots(2, 3, figsize=(10, 5.8), sharey=True, layout="constrained")
        *panels, legend = axes.flat
        for axis, env_id in zip(panels, LOCOMOTION, strict=True):
            draw(axis, env_id, by_labels)
        for axis in axes[:, 0]:
            axis.set_ylabel("return, the expert's is 1")
        legend.legend(*panels[0].get_legend_handles_labels(), frameon=False, loc="center left")
        legend.axis("off")
        figure.savefig(ROOT / "benchmark" / "figures" / f"{name}.png", dpi=120)
        plt.close(figure)


if __name__ == "__main__":
    main()
