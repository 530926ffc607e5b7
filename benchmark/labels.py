"""What a label buys: return by the expert's episodes and by its labels, on five tasks.

    python -m benchmark.labels

Draws benchmark/figures/episodes.png and labels.png from the results of
`python -m benchmark.run --grid labels`: a small dot is a seed, the line runs through their means.
"""

import matplotlib.pyplot as plt
import numpy as np

from benchmark.grids import DAGGERS, LABELS, LOCOMOTION, METHODS, NUM_DEMOS, labelled_by
from benchmark.run import ROOT, results_of
from benchmark.scores import normalised

ENOUGH = 0.95
COLOURS = {
    "cloning": "#6b6f76",
    "DART": "#1f4e94",
    "DAgger": "#e08a1e",
    "HG-DAgger": "#2f9e8f",
    "HG-DAgger, gate 0.5": "#c0504d",
    "HG-DAgger, five networks": "#7b4ea3",
}


def measured(env_id, method):
    """{number of episodes: (labels, normalised returns)} of each seed, of what was run.

    A first demonstration is the same for all but DART: the DAggers begin where cloning does.
    """
    _, seeds = LABELS[env_id]
    found = {}
    for num_episodes in NUM_DEMOS:
        row = labelled_by(method, num_episodes)
        if num_episodes == 1 and row.script in DAGGERS:
            row = labelled_by("cloning", 1)
        results = results_of(env_id, row, seeds)
        if len(results) == len(seeds):
            labels = np.array([result["expert_labels"] for result in results])
            returns = np.array([normalised(env_id, result["return_mean"]) for result in results])
            found[num_episodes] = labels, returns
    return found


def labels_until_enough(found):
    """Mean labels of the first number of episodes from which on the mean return stays enough."""
    enough = None
    for labels, returns in reversed(found.values()):
        if returns.mean() <= ENOUGH:
            break
        enough = labels.mean()
    return enough


def draw(axis, env_id, by_labels):
    for number, method in enumerate(METHODS):
        found = measured(env_id, method)
        if len(found) < 2:  # as DART's larger noise
            continue
        aside = 1.04 ** (number - len(METHODS) / 2)  # equal numbers stand beside each other
        means = []
        for num_episodes, (labels, returns) in found.items():
            x = labels if by_labels else np.full(len(labels), aside * num_episodes)
            axis.plot(x, returns, ".", color=COLOURS[method], alpha=0.4, markersize=5)
            means.append((x.mean(), returns.mean()))
        x, y = zip(*means, strict=True)
        axis.plot(x, y, "o-", color=COLOURS[method], markersize=5, label=method)
    axis.axhline(1, color="black", linewidth=0.8, linestyle=":")
    axis.set(xscale="log", ylim=(-0.05, 1.1), title=env_id)
    axis.set_xlabel("labels" if by_labels else "the expert's episodes")
    ticks = np.array(NUM_DEMOS) * (1000 if by_labels else 1)
    axis.set_xticks(ticks, [f"{num}k" if by_labels else f"{num}" for num in NUM_DEMOS])
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
