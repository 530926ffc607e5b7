"""The picture of how many demonstrations it takes: return against their number, on five tasks.

    python -m benchmark.demonstrations

Draws benchmark/figures/demonstrations.png from the committed results of
`python -m benchmark.run --grid demonstrations`. The bands are the range of the seeds; in the last
panel, the 95% interval of the interquartile mean over the five tasks.
"""

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from benchmark.report import demonstration_scores
from benchmark.run import LOCOMOTION, NUM_DEMOS, ROOT
from benchmark.scores import bootstrap

COLOURS = {
    "bc_mse": "#6b6f76",
    "bc_gaussian": "#b0413e",
    "bc_mog": "#2a6fdb",
    "bc_autoregressive": "#2f9e63",
    "bc_diffusion": "#e08a1e",
    "bc_flow": "#8a4fbf",
}


def points_on(env_id, script):
    """(number of demonstrations, mean, worst and best seed) for each number that was run."""
    for num_demos in NUM_DEMOS:
        scores = demonstration_scores(env_id, script, num_demos)
        if len(scores):
            yield num_demos, scores.mean(), scores.min(), scores.max()


def points_of_all(script):
    """(number of demonstrations, interquartile mean, its interval), where all tasks were run."""
    for num_demos in NUM_DEMOS:
        tasks = [demonstration_scores(env_id, script, num_demos) for env_id in LOCOMOTION]
        if all(map(len, tasks)):
            yield num_demos, *bootstrap(tasks)


def main():
    figure, axes = plt.subplots(2, 3, figsize=(10, 5.6), sharex=True, layout="constrained")
    axes = axes.ravel()
    for script, colour in COLOURS.items():
        curves = [points_on(env_id, script) for env_id in LOCOMOTION] + [points_of_all(script)]
        for axis, curve in zip(axes, curves, strict=True):
            points = np.array(list(curve))
            if len(points):
                num_demos, score, low, high = points.T
                axis.plot(num_demos, score, "o-", color=colour, markersize=4, label=f"{script}.py")
                axis.fill_between(num_demos, low, high, color=colour, alpha=0.15)
    for axis, title in zip(axes, [*LOCOMOTION, "all five: interquartile mean"], strict=True):
        axis.axhline(1, color="black", linewidth=0.8, linestyle=":")
        axis.set(xscale="log", title=title, ylim=(-0.05, 1.1))
        axis.set_xticks(NUM_DEMOS, [str(num) for num in NUM_DEMOS])
        axis.minorticks_off()
        axis.spines[["top", "right"]].set_visible(False)
    for axis in axes[3:]:
        axis.set_xlabel("demonstrations")
    for axis in axes[::3]:
        axis.set_ylabel("return, the expert's is 1")
    axes[-1].legend(frameon=False, fontsize=8, loc="lower right")
    figure.savefig(ROOT / "benchmark" / "figures" / "demonstrations.png", dpi=130)


if __name__ == "__main__":
    main()
