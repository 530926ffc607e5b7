"""The smallest case of compounding errors: a chain in which one mistake is never recovered from.

    python -m benchmark.chain

The expert stays on a path of T steps. The clone errs with probability epsilon in each step on the
path. Beside the path it has seen no demonstration: without recovery every later step is a mistake
too, so that the expected number is

    sum_(t = 1)^T (1 - (1 - epsilon)^t)  <=  epsilon T (T + 1) / 2                      (1)

With recovery, for instance because the expert labelled those states too, it is back on the path in
the next step:

    epsilon T                                                                           (2)

These are the rates of Ross & Bagnell, "Efficient Reductions for Imitation Learning", AISTATS 2010
(https://proceedings.mlr.press/v9/ross10a.html), and of Ross, Gordon & Bagnell, "A Reduction of
Imitation Learning and Structured Prediction to No-Regret Online Learning", AISTATS 2011
(https://proceedings.mlr.press/v15/ross11a.html). The table has the bound (1), its exact sum, and
the mean of simulated chains with its standard error.
"""

import numpy as np

EPSILON = 0.001
HORIZONS = (10, 30, 100, 300, 1000)
NUM_CHAINS = 20_000


def exact(epsilon, horizon):
    """The sum (1)."""
    steps = np.arange(1, horizon + 1)
    return float((1 - (1 - epsilon) ** steps).sum())


def simulate(epsilon, horizon, recovers, rng):
    """Mistakes in each of NUM_CHAINS chains, (NUM_CHAINS,)."""
    on_path = np.ones(NUM_CHAINS, dtype=bool)
    mistakes = np.zeros(NUM_CHAINS)
    for _ in range(horizon):
        errs = ~on_path | (rng.random(NUM_CHAINS) < epsilon)
        mistakes += errs
        on_path = ~errs | recovers
    return mistakes


def main():
    rng = np.random.default_rng(0)
    print(f"mistakes in T steps, epsilon = {EPSILON}, {NUM_CHAINS:,} chains")
    print("| T | bound (1) | exact (1) | never recovers | epsilon T (2) | recovers |")
    print("|---|---|---|---|---|---|")
    for horizon in HORIZONS:
        cells = [f"{EPSILON * horizon * (horizon + 1) / 2:.3f}", f"{exact(EPSILON, horizon):.3f}"]
        for recovers in (False, True):
            mistakes = simulate(EPSILON, horizon, recovers, rng)
            error = mistakes.std() / np.sqrt(NUM_CHAINS)
            if recovers:
                cells.append(f"{EPSILON * horizon:.3f}")
            cells.append(f"{mistakes.mean():.3f} ± {error:.3f}")
        print(f"| {horizon:,} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
