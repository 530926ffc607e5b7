"""The picture of compounding errors: mistakes against the horizon, and error against time.

    python -m benchmark.compounding              # run what is missing, and draw
    python -m benchmark.compounding --only-draw  # what is there

Each policy plays 50 episodes, and the expert is asked about every state. A mistake is an action
that is further than half a standard deviation from the expert's (root mean square over the
dimensions, standard deviations of the expert's actions), and every step after a fall. Beside it
stands what supervised learning promises: the rate of mistakes on the expert's own states, times the
horizon T. With errors that do not compound both grow with T; where one mistake leads to the next,
mistakes grow with T squared (Ross & Bagnell 2010, Theorem 2.1; Ross et al. 2011, Section 2).

`python -m benchmark.report` writes the README's table. A slope is fitted to the mean over all
episodes, at the horizons where there are mistakes, if these are at least MIN_HORIZONS. Its interval
is a 95% bootstrap over two seeds or more and the episodes of each, if each sample has a slope.
"""

import sys
import time
from dataclasses import dataclass

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import tyro

from benchmark.run import ROOT, Machines, results_of, run_missing, trained

NUM_EPISODES = 50
HORIZONS = [10, 20, 50, 100, 200, 500, 1000]
MIN_HORIZONS = 4  # with mistakes, for a slope
TOLERANCE = 0.5  # standard deviations
BIN = 20  # steps over which an error is averaged in time
SEEDS = [31, 32, 33]
FEW_EVALUATIONS = "--eval-every 20000 --eval-episodes 25"  # the episodes here are others
CLONING = [f"compounding bc_mse --num-demos {n} {FEW_EVALUATIONS}" for n in (1, 4, 16, 64)]
DAGGER = "compounding dagger --num-rounds 15 --eval-episodes 25"
ROWS = {
    "Humanoid-v4": [*CLONING, f"{DAGGER} --num-demos 10 --episodes-per-round 2"],
    "Walker2d-v4": [*CLONING, f"{DAGGER} --num-demos 1 --episodes-per-round 1"],
    "Hopper-v4": [*CLONING, f"{DAGGER} --num-demos 1 --episodes-per-round 1"],
}
BLUES = ["#a9c4ea", "#6f9cdc", "#3a6fbf", "#173d78"]
ORANGE = "#e08a1e"


@dataclass
class Args(Machines):
    only_draw: bool = False  # what is there, and run nothing


def distances(episodes, act, std):
    """Of each step from `act`, in standard deviations: one array (T,) for each episode."""
    found = []
    for episode in episodes:
        difference = (episode.actions - act(episode.obs)) / std
        found.append(np.sqrt(np.square(difference).mean(axis=1)))
    return found


def mistakes(episodes, horizon):
    """Mistakes up to each step (N, horizon), for distances (T,) of N episodes.

    Where an episode ends early it is a fall, and all later steps are mistakes.
    """
    wrong = np.ones((len(episodes), horizon), dtype=bool)
    for i, distance in enumerate(episodes):
        wrong[i, : len(distance)] = distance > TOLERANCE
    return wrong.cumsum(axis=1)


def by_time(episodes, horizon):
    """Mean distance of those that still run, for each `BIN` steps; None where none does."""
    padded = np.full((len(episodes), horizon), np.nan)
    for i, distance in enumerate(episodes):
        padded[i, : len(distance)] = distance
    means = []
    for begin in range(0, horizon, BIN):
        part = padded[:, begin : begin + BIN]
        means.append(float(np.nanmean(part)) if not np.isnan(part).all() else None)
    return means


def measure(env_id, row, seed):
    """In a worker: train, play, and ask the expert; the results, and a line."""
    import torch

    import bc_mse
    from experts import load_expert

    start = time.time()
    torch.set_num_threads(1)
    _, script, *flags = row.split()
    policy, results = trained(script, env_id, seed, *flags)
    expert = load_expert(env_id)
    envs = bc_mse.make_envs(bc_mse.Args(env_id=env_id), 25)
    horizon = envs[0].spec.max_episode_steps
    first = 1_000_000 * seed + 700_000  # neither the demonstrations' seeds nor the evaluation's
    experts = bc_mse.rollout(envs, expert, NUM_EPISODES, first)
    own = bc_mse.rollout(envs, policy.act, NUM_EPISODES, first)

    std = np.concatenate([episode.actions for episode in experts]).std(axis=0)
    on_experts = distances(experts, policy.act, std)
    on_own = distances(own, expert, std)
    rate = float(np.mean(np.concatenate(on_experts) > TOLERANCE))
    made = mistakes(on_own, horizon)
    measured = {
        "env_id": env_id,
        "row": row,
        "seed": seed,
        "expert_labels": results["expert_labels"],
        "return_mean": float(np.mean([episode.rewards.sum() for episode in own])),
        "seconds": time.time() - start,
        "rate_on_expert": rate,
        "mistakes": {str(T): made[:, T - 1].tolist() for T in HORIZONS},  # of each episode
        "error_on_expert": by_time(on_experts, horizon),
        "error_on_own": by_time(on_own, horizon),
    }
    total = made[:, -1].mean()
    line = f"{row} on {env_id}, seed {seed}: {total:.2f} mistakes, {rate * horizon:.2f} promised"
    return measured, line


def mistakes_of(results):
    """(seeds, episodes, horizons)"""
    return np.array([[result["mistakes"][str(T)] for T in HORIZONS] for result in results]).mT


def slope(made):
    """Of log mistakes against log T, by least squares where there are any; NaN if at too few T."""
    some = made > 0
    if some.sum() < MIN_HORIZONS:
        return np.nan
    return float(np.polyfit(np.log(np.array(HORIZONS)[some]), np.log(made[some]), 1)[0])


def slope_interval(made, num_samples=1000):
    """The middle 95% of the slopes for seeds redrawn, and episodes redrawn within each.

    NaN for a single seed, and where a sample has no slope: those that have one made more mistakes.
    """
    num_seeds, num_episodes, _ = made.shape
    if num_seeds == 1:
        return np.nan, np.nan
    rng = np.random.default_rng(0)
    slopes = []
    for _ in range(num_samples):
        seeds = rng.integers(num_seeds, size=(num_seeds, 1))
        episodes = rng.integers(num_episodes, size=(num_seeds, num_episodes))
        slopes.append(slope(made[seeds, episodes].mean(axis=(0, 1))))
    return np.quantile(slopes, [0.025, 0.975])


def label_of(row):
    _, script, *flags = row.split()
    if script == "dagger":
        return "DAgger"
    num_demos = int(flags[1])
    return f"cloning, {num_demos} demonstration{'s' if num_demos > 1 else ''}"


def draw(env_id, above, below):
    """Mistakes against the horizon, and below it the error on both kinds of states by time."""
    horizons = np.array(HORIZONS)
    rows = ROWS[env_id]
    without = []
    for row, colour in zip(rows, [*BLUES, ORANGE], strict=True):
        results = results_of(env_id, row, SEEDS)
        if not results:
            continue
        promised = np.mean([result["rate_on_expert"] for result in results]) * horizons
        above.plot(horizons, promised, "--", color=colour, linewidth=1)
        made = mistakes_of(results).mean(axis=1)
        made[made == 0] = np.nan  # has no logarithm
        above.plot(horizons, made.T, "-", color=colour, linewidth=1, alpha=0.6)
        mean = mistakes_of(results).mean(axis=(0, 1))
        if not mean.any():
            without.append(label_of(row))
        mean[mean == 0] = np.nan
        above.plot(horizons, mean, "o", color=colour, markersize=5, label=label_of(row))
        if row in (rows[1], rows[-1]):
            begins = np.arange(len(results[0]["error_on_own"])) * BIN
            for key, style in (("error_on_own", "-"), ("error_on_expert", "--")):
                errors = np.array([result[key] for result in results], dtype=float)
                below.plot(begins, errors.mean(axis=0), style, color=colour)
    ends = np.array([20, 200])
    for power in (1, 2):
        guide = 0.02 * (ends / ends[0]) ** power
        above.plot(ends, guide, ":", color="black", linewidth=1.2)
        above.annotate(f" slope {power}", (ends[1], guide[1]), fontsize=8, va="center")
    if without:
        names = "\n".join(without)
        above.text(12, 1200, f"without a mistake:\n{names}", fontsize=8, va="top")
    above.set(xscale="log", yscale="log", ylim=(1e-2, 1500), title=env_id, xlabel="horizon T")
    below.set(yscale="log", xlabel="time step")
    for axis in (above, below):
        axis.spines[["top", "right"]].set_visible(False)


def main(args):
    cells = [(env_id, row, seed) for seed in SEEDS for env_id in ROWS for row in ROWS[env_id]]
    failed = [] if args.only_draw else run_missing(cells, args, measure)

    size = (4.2 * len(ROWS), 6.8)
    figure, axes = plt.subplots(2, len(ROWS), figsize=size, layout="constrained")
    for env_id, (above, below) in zip(ROWS, axes.T, strict=True):
        draw(env_id, above, below)
    axes[0, 0].set_ylabel("mistakes up to step T (points: mean,\nlines: seeds, dashed: promised)")
    axes[1, 0].set_ylabel("error on own states, in std\n(dashed: on the expert's states)")
    entries = axes[0, 0].get_legend_handles_labels()
    figure.legend(*entries, loc="outside lower center", ncols=len(BLUES) + 1, frameon=False)
    figure.savefig(ROOT / "benchmark" / "figures" / "compounding.png", dpi=120)
    sys.exit(len(failed) > 0)


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
