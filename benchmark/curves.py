"""Learning curves: return by updates, of each script that learns once.

    python -m benchmark.run --grid curves
    python -m benchmark.curves

Draws benchmark/figures/curves.png: a thin line is a seed, a thick one their mean, and grey is the
mean of squared loss.
"""

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
    ((env_id, (rows, _)),) = CURVES.items()
    found = {row.script: curves_of(env_id, row) for row in rows}
    figure, axes = plt.subplots(
        2, 4, figsize=(10, 4.6), layout="constrained", sharex=True, sharey=True
    )
    *panels, empty = axes.flat
    empty.axis("off")
    for axis, (script, curves) in zip(panels, found.items(), strict=True):
        if found["bc_mse"] is not None:
            updates, returns = found["bc_mse"]
            axis.plot(updates / 1000, returns.mean(axis=0), color="#b8bcc2", linewidth=2)
        if curves is not None:
            updates, returns = curves
            axis.plot(updates / 1000, returns.T, color="#1f4e94", linewidth=0.7, alpha=0.5)
            axis.plot(updates / 1000, returns.mean(axis=0), color="#1f4e94", linewidth=2)
        axis.axhline(1, color="black", linewidth=0.8, linestyle=":")
        axis.set(title=f"{script}.py", ylim=(-0.05, 1.1))
        axis.spines[["top", "right"]].set_visible(False)
    for axis in (*axes[1, :3], axes[0, 3]):
        axis.set_xlabel("thousand updates")
        axis.tick_params(labelbottom=True)
    for axis in axes[:, 0]:
        axis.set_ylabel("return, the expert's is 1")
    figure.savefig(ROOT / "benchmark" / "figures" / "curves.png", dpi=120)


if __name__ == "__main__":
    main()
