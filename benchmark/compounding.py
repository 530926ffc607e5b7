"""When policies fall, and how far they are off before: on the expert's states and on their own.

    python -m benchmark.compounding              # run what is missing, and draw
    python -m benchmark.compounding --only-draw  # what is there

Each policy plays 50 episodes, and the expert is asked about every state. The error is the distance
of the policy's action from the expert's: root mean square over the dimensions, in standard
deviations of the expert's actions. Beside it stands the error on states of the expert's episodes,
which is all that supervised learning sees. The hazard is the share of the episodes still running
that fall in the next 100 steps.

Draws benchmark/figures/falls.png and errors.png; `python -m benchmark.report` writes the table.
"""

import sys
import time

import matplotlib.pyplot as plt
import numpy as np
import tyro

from benchmark.grids import Row
from benchmark.run import ROOT, StudyArgs, results_of, run_missing, trained

NUM_EPISODES = 50
HORIZONS = [10, 20, 50, 100, 200, 500, 1000]
TOLERANCE = 0.5  # standard deviations, for a mistake
INTERVALS = [(0, 100), (100, 200), (200, 500), (500, 1000)]
BIN = 20  # steps over which an error is averaged in time
SEEDS = [31, 32, 33]
FEW_EVALUATIONS = "--eval-every 20000 --eval-episodes 25"  # the episodes here are others
NUM_DEMOS = {f"cloning, {n} demonstration{'s' * (n > 1)}": n for n in (1, 4, 16, 64)}
CLONING = {
    label: Row("bc_mse", f"--num-demos {n} {FEW_EVALUATIONS}", "compounding")
    for label, n in NUM_DEMOS.items()
}


def with_dagger(flags):
    flags = f"--num-rounds 15 --eval-episodes 25 {flags}"
    return CLONING | {"DAgger": Row("dagger", flags, "compounding")}


ROWS = {
    "Humanoid-v4": with_dagger("--num-demos 10 --episodes-per-round 2"),
    "Walker2d-v4": with_dagger("--num-demos 1 --episodes-per-round 1"),
    "Hopper-v4": with_dagger("--num-demos 1 --episodes-per-round 1"),
}
BLUES = ["#a9c4ea", "#6f9cdc", "#3a6fbf", "#173d78"]
ORANGE = "#e08a1e"


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
    policy, results = trained(env_id, row, seed)
    expert = load_expert(env_id)
    envs = bc_mse.make_envs(bc_mse.Args(env_id=env_id), 25)
    horizon = envs[0].spec.max_episode_steps
    first = 1_000_000 * seed + 700_000  # neither the demonstrations' seeds nor the evaluation's
    experts = bc_mse.rollout(envs, expert, NUM_EPISODES, first)
    own = bc_mse.rollout(envs, policy.act, NUM_EPISODES, first)

    std = np.concatenate([episode.actions for episode in experts]).std(axis=0)
    on_experts = distances(experts, policy.act, std)
    on_own = distances(own, expert, std)
    made = mistakes(on_own, horizon)
    measured = {
        "env_id": env_id,
        "row": str(row),
        "seed": seed,
        "expert_labels": results["expert_labels"],
        "return_mean": float(np.mean([episode.rewards.sum() for episode in own])),
        "seconds": time.time() - start,
        "lengths": [len(distance) for distance in on_own],
        "mistakes": {str(T): made[:, T - 1].tolist() for T in HORIZONS},  # of each episode
        "error_on_expert": by_time(on_experts, horizon),
        "error_on_own": by_time(on_own, horizon),
    }
    num_fallen = sum(len(distance) < horizon for distance in on_own)
    line = f"{row} on {env_id}, seed {seed}: {num_fallen} of {NUM_EPISODES} fall"
    return measured, line


def mistakes_of(results):
    """(seeds, episodes, horizons)"""
    return np.array([[result["mistakes"][str(T)] for T in HORIZONS] for result in results]).mT


def fallen(results):
    """Whether each episode has fallen by each horizon (seeds, episodes, horizons).

    Then all steps from there to the last horizon are mistakes. By the last horizon itself, an
    episode has fallen if it made more than ten mistakes after the horizon before.
    """
    made = mistakes_of(results)
    remaining = HORIZONS[-1] - np.array(HORIZONS)
    has_fallen = made[..., -1:] - made == remaining
    has_fallen[..., -1] = has_fallen[..., -2] | (made[..., -1] - made[..., -2] > 10)
    return has_fallen


def hazards(results):
    """For each interval the share of those still running that fall, per 100 steps; NaN for none."""
    has_fallen = dict(zip([0, *HORIZONS], [0, *fallen(results).sum(axis=(0, 1))], strict=True))
    num_episodes = mistakes_of(results)[..., 0].size
    found = []
    for begin, end in INTERVALS:
        running = num_episodes - has_fallen[begin]
        share = (has_fallen[end] - has_fallen[begin]) / running if running else np.nan
        found.append(1 - (1 - share) ** (100 / (end - begin)))
    return found


def early_errors(results):
    """Mean error in the first 100 steps of episodes that still run: on the expert's states, own."""
    num_bins = 100 // BIN
    keys = ("error_on_expert", "error_on_own")
    errors = [np.array([result[key][:num_bins] for result in results], dtype=float) for key in keys]
    return [float(np.nanmean(error)) for error in errors]


def draw_falls(axis, env_id):
    """The share of episodes that still run, by time: a line for each policy."""
    for (label, row), colour in zip(ROWS[env_id].items(), [*BLUES, ORANGE], strict=True):
        results = results_of(env_id, row, SEEDS)
        if results:
            running = 1 - fallen(results).mean(axis=(0, 1))
            steps = [0, *HORIZONS]
            axis.plot(steps, [1, *running], "o-", color=colour, markersize=4, label=label)
    axis.set(title=env_id, xlabel="time step", ylim=(-0.03, 1.05))


def draw_errors(axis, env_id):
    """The error of clones of four demonstrations and of DAgger, by time."""
    for policy, colour in (("cloning, 4 demonstrations", BLUES[1]), ("DAgger", ORANGE)):
        results = results_of(env_id, ROWS[env_id][policy], SEEDS)
        if not results:
            continue
        for key, style, states in (("own", "-", "its own"), ("expert", "--", "the expert's")):
            errors = np.array([result[f"error_on_{key}"] for result in results], dtype=float)
            begins = np.arange(errors.shape[1]) * BIN
            label = f"{policy}, {states} states"
            axis.plot(begins, errors.mean(axis=0), style, color=colour, label=label)
    axis.set(title=env_id, xlabel="time step", yscale="log")


def main(args):
    rows = [(env_id, row) for env_id in ROWS for row in ROWS[env_id].values()]
    cells = [(*row, seed) for seed in SEEDS for row in rows]
    failed = [] if args.only_draw else run_missing(cells, args, measure)

    pictures = [("falls", draw_falls, "share of episodes that still run", 3)]
    pictures.append(("errors", draw_errors, "distance from the expert, in std", 2))
    for name, draw, what, num_columns in pictures:
        figure, axes = plt.subplots(1, len(ROWS), figsize=(10, 4), layout="constrained")
        for axis, env_id in zip(axes, ROWS, strict=True):
            draw(axis, env_id)
            axis.spines[["top", "right"]].set_visible(False)
        axes[0].set_ylabel(what)
        entries = axes[0].get_legend_handles_labels()
        figure.legend(*entries, loc="outside lower center", ncols=num_columns, frameon=False)
        figure.savefig(ROOT / "benchmark" / "figures" / f"{name}.png", dpi=120)
        plt.close(figure)
    sys.exit(len(failed) > 0)


if __name__ == "__main__":
    main(tyro.cli(StudyArgs, description=__doc__))
