"""The picture of how many demonstrations it takes: return against their number, on five tasks.

    python -m benchmark.demonstrations

Draws benchmark/figures/demonstrations.png from the committed results of
`python -m benchmark.run --grid demonstrations`. The bars reach from the worst to the best seed; in
the last panel they are the 95% interval of the interquartile mean over the five tasks.
"""

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from benchmark.report import demonstration_scores
from benchmark.run import LOCOMOTION, NUM_DEMOS, ROOT, SCRIPTS
from benchmark.scores import bootstrap


def curve_of_task(env_id, script):
    """Rows of (number of demonstrations, mean, worst seed, best seed)."""
    curve = []
    for num_demos in NUM_DEMOS:
        scores = demonstration_scores(env_id, script, num_demos)
        if len(scores):
            curve.append((num_demos, scores.mean(), scores.min(), scores.max()))
    return curve


def curve_of_all(script):
    """Rows of (number of demonstrations, interquartile mean, its interval)."""
    curve = []
    for num_demos in NUM_DEMOS:
        tasks = [demonstration_scores(env_id, script, num_demos) for env_id in LOCOMOTION]
        if all(map(len, tasks)):
            curve.append((num_demos, *bootstrap(tasks)))
    return curve


def main():
    figure, axes = plt.subplots(2, 3, figsize=(10, 5.6), sharey=True, layout="constrained")
    for number, script in enumerate(SCRIPTS):
        curves = [curve_of_task(env_id, script) for env_id in LOCOMOTION]
        curves.append(curve_of_all(script))
        for axis, curve in zip(axes.flat, curves, strict=True):
            if not curve:
                continue
            num_demos, score, low, high = np.array(curve).T
            x = np.searchsorted(NUM_DEMOS, num_demos) + 0.1 * (number - 2.5)  # beside each other
            axis.plot(x, score, "o", color=f"C{number}", markersize=5, label=f"{script}.py")
            axis.vlines(x, low, high, color=f"C{number}", linewidth=1.5)

    for axis, title in zip(axes.flat, [*LOCOMOTION, "all five: interquartile mean"], strict=True):
        axis.axhline(1, color="black", linewidth=0.8, linestyle=":")
        axis.set(xlim=(-0.5, len(NUM_DEMOS) - 0.5), ylim=(-0.05, 1.1), title=title)
        axis.set_xticks(range(len(NUM_DEMOS)), [str(num_demos) for num_demos in NUM_DEMOS])
        axis.spines[["top", "right"]].set_visible(False)
    for axis in axes[1]:
        axis.set_xlabel("demonstrations")
    for axis in axes[:, 0]:
        axis.set_ylabel("return, the expert's is 1")
    axes[0, 0].legend(frameon=False, fontsize=8, loc="lower right")
    figure.savefig(ROOT / "benchmark" / "figures" / "demonstrations.png", dpi=130)


if __name__ == "__main__":
    main()
