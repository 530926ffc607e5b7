"""The picture of how many demonstrations it takes: return against their number, on five tasks.

    python -m benchmark.demonstrations

Draws benchmark/figures/demonstrations.png from the committed results of
`python -m benchmark.run --grid demonstrations`. A small dot is a seed, a large one their mean.
"""

import matplotlib.pyplot as plt
import numpy as np

from benchmark.grids import LOCOMOTION, NUM_DEMOS, SCRIPTS
from benchmark.run import ROOT
from benchmark.tables import demonstration_scores


def draw(axis, env_id):
    for number, script in enumerate(SCRIPTS):
        label = f"{script}.py"
        for place, num_demos in enumerate(NUM_DEMOS):
            scores = demonstration_scores(env_id, script, num_demos)
            if len(scores):
                x = place + 0.12 * (number - 2.5)  # beside each other
                axis.plot(np.full(len(scores), x), scores, ".", color=f"C{number}", alpha=0.6)
                axis.plot(x, scores.mean(), "o", color=f"C{number}", markersize=7, label=label)
                label = None
    axis.axhline(1, color="black", linewidth=0.8, linestyle=":")
    axis.set(xlim=(-0.5, len(NUM_DEMOS) - 0.5), ylim=(-0.05, 1.1), title=env_id)
    axis.set_xticks(range(len(NUM_DEMOS)), [str(num_demos) for num_demos in NUM_DEMOS])
    axis.set_xlabel("demonstrations")
    axis.spines[["top", "right"]].set_visible(False)


def main():
    figure, axes = plt.subplots(2, 3, figsize=(10, 5.6), sharey=True, layout="constrained")
    *panels, legend = axes.flat
    for axis, env_id in zip(panels, LOCOMOTION, strict=True):
        draw(axis, env_id)
    for axis in axes[:, 0]:
        axis.set_ylabel("return, the expert's is 1")
    legend.legend(*panels[0].get_legend_handles_labels(), frameon=False, loc="center left")
    legend.axis("off")
    figure.savefig(ROOT / "benchmark" / "figures" / "demonstrations.png", dpi=120)


if __name__ == "__main__":
    main()
