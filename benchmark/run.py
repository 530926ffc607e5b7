"""Run the grids behind the README's tables, one process a run; finished cells are skipped.

    python -m benchmark.run --jobs 2                # behaviour cloning
    python -m benchmark.run --jobs 2 --grid modes   # how often each mode occurs, 20 seeds
    python -m benchmark.run --jobs 2 --grid closed  # cloning, DAgger and HG-DAgger with few labels

Each run's results.json is kept as benchmark/results/<env_id>__<row>__<seed>.json. A failed cell is
reported and left out; the next call tries it again. Delete a file to run its cell anew.
"""

import importlib
import json
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmark" / "results"
SCRIPTS = ["bc_mse", "bc_gaussian", "bc_mog", "bc_autoregressive", "bc_diffusion"]
DAGGERS = ["dagger", "hg_dagger"]

# A row is a script with its flags. The defaults were tuned on the seeds 0, 1, 7, 10 and 100.
ROAD = "--num-demos 200 --num-updates 5000 --eval-episodes 500"
OFFLINE = {
    "Hopper-v4": (SCRIPTS, [4, 5, 6, 8, 9]),
    "Walker2d-v4": (SCRIPTS, [4, 5, 6]),
    "LaneChange-v0": (
        [f"{script} {ROAD}" for script in [*SCRIPTS, "bc_gaussian --stochastic"]],
        [4, 5, 6],
    ),
    "Slalom-v0": (
        [f"{script} {ROAD}" for script in [*SCRIPTS, "bc_gaussian --stochastic"]],
        [4, 5, 6],
    ),
    "CartPole-v1": (["bc_autoregressive --eval-episodes 500"], [4, 5, 6]),
}

MODES = {
    "LaneChange-v0": (
        [f"{script} {ROAD}" for script in ("bc_mog", "bc_autoregressive", "bc_diffusion")],
        list(range(21, 41)),
    ),
}

# Few labels, and who chooses the states that get them. `--num-rounds 0` is behaviour cloning: on as
# many labels as DAgger begins with, and on about as many as it ends with, or more.
CLOSED_SEEDS = [11, 12, 13, 14, 15]
SMALL = "--num-updates 5000 --eval-episodes 500"
DISTURBED = f"--demo-env-id LaneChange-v0 --expert experts.driving:prefers_left {SMALL}"
CLOSED = {
    "Hopper-v4": (
        [
            "dagger --num-rounds 0 --num-demos 1 --label-every 10",
            "dagger --num-rounds 0 --num-demos 30 --label-every 10",
            "dagger --num-rounds 10 --num-demos 1 --label-every 10",
            "hg_dagger --num-rounds 10 --num-demos 1 --label-every 10",
        ],
        CLOSED_SEEDS,
    ),
    "Walker2d-v4": (
        [
            "dagger --num-rounds 0 --num-demos 1 --label-every 5",
            "dagger --num-rounds 0 --num-demos 20 --label-every 5",
            "dagger --num-rounds 12 --num-demos 1 --label-every 5",
            "hg_dagger --num-rounds 12 --num-demos 1 --label-every 5",
        ],
        CLOSED_SEEDS,
    ),
    "CartPole-v1": (
        [
            f"dagger --num-rounds 0 --num-demos 1 --label-every 20 {SMALL}",
            f"dagger --num-rounds 0 --num-demos 40 --label-every 20 {SMALL}",
            f"dagger --num-demos 1 --label-every 20 {SMALL}",
            f"hg_dagger --num-demos 1 --label-every 20 --gate-threshold 0.5 {SMALL}",
        ],
        CLOSED_SEEDS,
    ),
    "LaneChangeDisturbed-v0": (
        [
            f"dagger --num-rounds 0 {DISTURBED}",
            f"dagger --num-rounds 0 --num-demos 200 {DISTURBED}",
            f"dagger --episodes-per-round 20 {DISTURBED}",
            f"hg_dagger --episodes-per-round 20 --gate-threshold 1 --gate-steps 1 {DISTURBED}",
        ],
        CLOSED_SEEDS,
    ),
    # Two modes: whose states are labelled and how many modes a policy can hold are two questions.
    "LaneChange-v0": ([f"dagger --episodes-per-round 20 {SMALL}"], CLOSED_SEEDS),
}
GRIDS = {"offline": OFFLINE, "modes": MODES, "closed": CLOSED}


@dataclass
class Args:
    grid: Literal["offline", "modes", "closed"] = "offline"
    env_ids: tuple[str, ...] = ()  # all of the grid where none are given
    scripts: tuple[str, ...] = ()  # all of the grid where none are given
    seeds: tuple[int, ...] = ()  # those of the grid where none are given
    jobs: int = 1  # processes side by side, each on one thread


def path_of(env_id, row, seed):
    name = row.replace(" --", "-").replace(" ", "-").replace(":", "-")
    return RESULTS / f"{env_id}__{name}__{seed}.json"


def run_cell(env_id, row, seed):
    """True where the cell is finished."""
    kept = path_of(env_id, row, seed)
    if kept.exists():
        return True
    script, *flags = row.split()
    with tempfile.TemporaryDirectory() as run_dir:
        flags += ["--env-id", env_id, "--seed", str(seed), "--run-dir", run_dir]
        command = [sys.executable, f"{script}.py", *flags]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        print(done.stdout.strip() or f"FAILED {kept.stem}: {done.stderr.strip()}", flush=True)
        if done.returncode == 0:
            (path,) = Path(run_dir).glob("*/results.json")
            shutil.move(path, kept)
    return kept.exists()


def trained(script, env_id, seed, *flags):
    """The policy of a run of the script as people run it, and the run's results."""
    module = importlib.import_module(script)
    with tempfile.TemporaryDirectory() as run_dir:
        flags = [*flags, "--env-id", env_id, "--seed", str(seed), "--run-dir", run_dir]
        subprocess.run([sys.executable, f"{script}.py", *flags], cwd=ROOT, check=True)
        (run,) = Path(run_dir).iterdir()
        results = json.loads((run / "results.json").read_text())
        metadata, weights = module.read_checkpoint(run / "policy.safetensors")
    args = module.Args(**metadata["args"])
    policy = module.make_policy(args, module.make_envs(args, 1))
    policy.load_state_dict(weights)
    return policy, results


def main(args):
    RESULTS.mkdir(exist_ok=True)
    grid = GRIDS[args.grid]
    cells = []
    for env_id in args.env_ids or grid:
        rows, seeds = grid[env_id]
        for seed in args.seeds or seeds:
            for row in rows:
                if not args.scripts or row.split()[0] in args.scripts:
                    cells.append((env_id, row, seed))
    with ThreadPoolExecutor(args.jobs) as pool:
        finished = list(pool.map(lambda cell: run_cell(*cell), cells))
    print(f"{sum(finished)} of {len(cells)} cells finished")


if __name__ == "__main__":
    main(tyro.cli(Args))
