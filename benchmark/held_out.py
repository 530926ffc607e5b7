"""Does the loss on held-out demonstrations say which policy acts best?

    python -m benchmark.held_out              # run what is missing, and draw
    python -m benchmark.held_out --only-draw  # what is there

Each script learns from four demonstrations of Walker2d. Every 1,000 updates its loss on the
demonstration that is held out is compared with the return of 25 episodes. The rank correlation of
the two over one run (Spearman's) is -1 where the policy with the lower loss always acts better, and
0 where the loss says nothing.
"""

import sys
import tempfile
import time

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import tyro

from benchmark.compounding import Args
from benchmark.run import ROOT, SCRIPTS, results_of, run_in, run_missing
from benchmark.scores import normalised

ENV_ID = "Walker2d-v4"
FLAGS = "--num-demos 4 --eval-every 1000 --eval-episodes 25"
SEEDS = [51, 52, 53]
COLOURS = plt.cm.ScalarMappable(plt.Normalize(0, 1), "viridis")


def row_of(script):
    return f"held_out {script} {FLAGS}"


def read_curve(run):
    """The points of a run's TensorBoard file as a list of [update, held-out loss, return]."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run))
    events.Reload()
    losses = {event.step: event.value for event in events.Scalars("loss/held_out")}
    returns = events.Scalars("eval/return")
    return [[event.step, losses[event.step], event.value] for event in returns]


def measure(env_id, row, seed):
    """In a worker: train, and read what was logged; the results, and a line."""
    start = time.time()
    _, script, *flags = row.split()
    with tempfile.TemporaryDirectory() as run_dir:
        run, line = run_in(run_dir, script, env_id, seed, flags)
        curve = read_curve(run)
    measured = {"env_id": env_id, "row": row, "seed": seed, "curve": curve}
    return measured | {"seconds": time.time() - start}, line


def curves_of(script):
    """The held-out losses and the normalised returns of all runs, each (seeds, points)."""
    curves = np.array([result["curve"] for result in results_of(ENV_ID, row_of(script), SEEDS)])
    if not len(curves):
        return np.empty((0, 0)), np.empty((0, 0))
    return curves[:, :, 1], normalised(ENV_ID, curves[:, :, 2])


def ranks(values):
    """From 1, the lowest, of an array (N,) without ties."""
    return np.argsort(np.argsort(values)) + 1


def rank_correlation(x, y):
    """Spearman's, of two arrays (N,) without ties."""
    return float(np.corrcoef(ranks(x), ranks(y))[0, 1])


def main(args):
    cells = [(ENV_ID, row_of(script), seed) for seed in SEEDS for script in SCRIPTS]
    failed = [] if args.only_draw else run_missing(cells, args, measure)

    figure, axes = plt.subplots(2, 3, figsize=(9, 5.4), sharey=True, layout="constrained")
    for axis, script in zip(axes.flat, SCRIPTS, strict=True):
        losses, returns = curves_of(script)
        if not len(losses):
            axis.axis("off")
            continue
        share = np.arange(1, losses.shape[1] + 1) / losses.shape[1]  # of the training
        correlations = []
        for loss, score in zip(losses, returns, strict=True):
            # Ranks, since the losses themselves soon hardly differ.
            axis.scatter(ranks(loss), score, c=share, s=16, cmap=COLOURS.cmap)
            correlations.append(rank_correlation(loss, score))
        title = f"{script}.py\nrank correlation {np.mean(correlations):.2f}"
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("rank of the held-out loss (1: lowest)")
        axis.spines[["top", "right"]].set_visible(False)
    for axis in axes[:, 0]:
        axis.set_ylabel("return, the expert's is 1")
    figure.colorbar(COLOURS, ax=axes, label="share of the training", shrink=0.6)
    figure.savefig(ROOT / "benchmark" / "figures" / "held_out.png", dpi=130)
    sys.exit(len(failed) > 0)


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
