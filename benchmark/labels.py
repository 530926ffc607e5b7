"""What a label buys: the cells of the tables of `python -m benchmark.run --grid labels`."""

import numpy as np

from benchmark.grids import LABELS, NUM_DEMOS, labelled_by
from benchmark.run import results_of
from benchmark.scores import normalised

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
