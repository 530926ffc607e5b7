"""Learning curves: return by updates, of each script on two tasks.

    python -m benchmark.run --grid curves
    python -m benchmark.curves

Draws benchmark/figures/curves.png: a thin line is a seed, a thick one their mean.
"""

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from benchmark.grids import CURVES
from benchmark.run import ROOT, results_of
from benchmark.scores import normalised


def curves_of(env_id, row):
    """Updates (T,) and normalised returns (seeds, T), or None."""
    _, seeds = CURVES[env_id]
    curves = np.array([result["curve"] for result in results_of(env_id, row, seeds)])
    return (curves[0, :, 0], normalised(env_id, curves[:, :, 1])) if len(curves) else None


def main():
    figure, axes = plt.subplots(1, len(CURVES), figsize=(10, 4.2), layout="constrained")
    for axis, (env_id, (rows, _)) in zip(axes, CURVES.items(), strict=True):
        for number, row in enumerate(rows):
            found = curves_of(env_id, row)
            if found is None:
                continue
            updates, returns = found
            axis.plot(updates, returns.T, color=f"C{number}", linewidth=0.6, alpha=0.4)
            label = f"{row.script}.py"
            axis.plot(updates, returns.mean(axis=0), color=f"C{number}", linewidth=2, label=label)
        axis.axhline(1, color="black", linewidth=0.8, linestyle=":")
        axis.set(title=env_id, xlabel="updates", ylim=(-0.05, 1.1))
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("return, the expert's is 1")
    entries = axes[0].get_legend_handles_labels()
    figure.legend(*entries, loc="outside lower center", ncols=4, frameon=False)
    figure.savefig(ROOT / "benchmark" / "figures" / "curves.png", dpi=120)


if __name__ == "__main__":
    main()
