"""Run the grids behind the README's tables, one process a run, on Ray.

    python -m benchmark.run                               # behaviour cloning, on all cores
    python -m benchmark.run --grid modes --num-cpus 1     # how often each mode occurs, 20 seeds
    python -m benchmark.run --grid closed --dry-run       # which runs are missing, and their time
    python -m benchmark.run --address 10.0.0.1:6379       # on a Ray cluster

Each run's results.json is kept as benchmark/results/<env_id>__<row>__<seed>.json as soon as it is
there, with what made it, so that Ctrl-C loses at most the runs under way. Finished ones are
skipped; delete a file to run its cell anew. A run whose worker is killed is tried again, twice; one
that fails is reported, and the next call tries it again. On a cluster the code travels from here
and the results come back, so that the nodes need the requirements and share no files.
"""

import importlib
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import tyro
from safetensors.torch import load_file

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmark" / "results"
SCRIPTS = ["bc_mse", "bc_gaussian", "bc_mog", "bc_autoregressive", "bc_diffusion", "bc_flow"]
DAGGERS = ["dagger", "hg_dagger"]

# A row is a script with its flags. The defaults were tuned on the seeds 0, 1, 7, 10 and 100.
ROAD = "--num-demos 200 --num-updates 5000 --eval-episodes 500"
ON_ROADS = (
    [f"{script} {ROAD}" for script in [*SCRIPTS, "bc_gaussian --stochastic"]],
    list(range(21, 31)),
)
OFFLINE = {
    "Hopper-v4": (SCRIPTS, [4, 5, 6, 8, 9]),
    "Walker2d-v4": (SCRIPTS, [4, 5, 6]),
    "LaneChange-v0": ON_ROADS,
    "Slalom-v0": ON_ROADS,
    "CartPole-v1": (["bc_autoregressive --eval-episodes 500"], [4, 5, 6]),
}

MODES = {"LaneChange-v0": ([f"{script} {ROAD}" for script in SCRIPTS[2:]], list(range(21, 41)))}

# An expert that passes on the left four times out of five.
UNEVEN = {
    "LaneChange-v0": (
        [f"{script} {ROAD} --expert experts.driving:mostly_left" for script in SCRIPTS[2:]],
        list(range(21, 26)),
    )
}

# Does it depend on the seed, or on how long they train?
LONG = "--num-demos 200 --eval-episodes 500"
ROADS = {
    env_id: (
        [f"{script} {flags}" for flags in (ROAD, LONG) for script in SCRIPTS],
        [*range(21, 41)],
    )
    for env_id in ("LaneChange-v0", "Slalom-v0")
}

# How many demonstrations it takes. With ten, the runs are those of the table above.
LOCOMOTION = ["Hopper-v4", "Walker2d-v4", "HalfCheetah-v4", "Ant-v4", "Humanoid-v4"]
NUM_DEMOS = [1, 4, 10, 25]


def with_demos(script, num_demos):
    return script if num_demos == 10 else f"{script} --num-demos {num_demos}"


DEMONSTRATIONS = {
    env_id: (
        [with_demos(script, num_demos) for num_demos in NUM_DEMOS for script in SCRIPTS],
        [4, 5, 6, 8, 9],
    )
    for env_id in LOCOMOTION
}

# What a label buys. A row costs 1, 4, 10 or 25 episodes of the expert's time: to act, plainly or in
# noise; or after a first demonstration one in each round, to label the policy's states or to watch
# and take over. All rows have the same network, number of updates and seeds. (A DAgger evaluates
# one episode per environment in each round; five are enough for its curve.)
METHODS = {  # a script, and flags of its own
    "cloning": ("bc_mse", ""),
    "DART": ("dart", ""),
    "DAgger": ("dagger", ""),
    "HG-DAgger, one network": ("hg_dagger", " --gate-threshold 0.5 --ensemble-size 1"),
    "HG-DAgger, five networks": ("hg_dagger", " --gate-threshold 0.5"),
}


def labelled_by(method, num_episodes):
    script, flags = METHODS[method]
    if script not in DAGGERS:
        return with_demos(script, num_episodes)
    rounds = f"--num-demos 1 --num-rounds {num_episodes - 1} --episodes-per-round 1 --num-envs 5"
    return f"{script} {rounds}{flags}"


LABELS = {
    env_id: (
        [
            labelled_by(method, num_episodes)
            for num_episodes in NUM_DEMOS
            for method in METHODS
            if num_episodes > 1 or method in ("cloning", "DART")
        ],
        [4, 5, 6, 8, 9],
    )
    for env_id in LOCOMOTION
}

# The default of dart.py's --noise was chosen on these seeds, which no other table reports.
NOISES = [0.03, 0.06, 0.12]
NOISE_DEMOS = dict(zip(LOCOMOTION, [1, 4, 4, 4, 10], strict=True))
NOISE = {
    env_id: ([f"{with_demos('dart', n)} --noise {noise}" for noise in NOISES], [71, 72, 73])
    for env_id, n in NOISE_DEMOS.items()
}

# Few labels, and who chooses the states that get them. `--num-rounds 0` is behaviour cloning: on as
# many labels as DAgger begins with, and on about as many as it ends with, or more: scattered over
# many demonstrations, and all of a few.
CLOSED_SEEDS = [11, 12, 13, 14, 15]
SMALL = "--num-updates 5000 --eval-episodes 500"
LEFT = "road/left-v0"
DISTURBED = f"--dataset {LEFT} --expert experts.driving:prefers_left {SMALL}"
CLOSED = {
    "Hopper-v4": (
        [
            "dagger --num-rounds 0 --num-demos 1 --label-share 0.1",
            "dagger --num-rounds 0 --num-demos 30 --label-share 0.1",
            "dagger --num-rounds 0 --num-demos 3",
            "dagger --num-rounds 10 --num-demos 1 --label-share 0.1",
            "hg_dagger --num-rounds 10 --num-demos 1 --label-share 0.1",
            "dagger",
            "hg_dagger",
        ],
        CLOSED_SEEDS,
    ),
    "CartPole-v1": (
        [
            f"dagger --num-rounds 0 --num-demos 1 --label-share 0.05 {SMALL}",
            f"dagger --num-rounds 0 --num-demos 40 --label-share 0.05 {SMALL}",
            f"dagger --num-demos 1 --label-share 0.05 {SMALL}",
            f"hg_dagger --num-demos 1 --label-share 0.05 --gate-threshold 0.5 {SMALL}",
        ],
        CLOSED_SEEDS,
    ),
    "LaneChangeDisturbed-v0": (
        [
            f"dagger --num-rounds 0 {DISTURBED}",
            f"dagger --num-rounds 0 --num-demos 200 {DISTURBED}",
            f"dagger --num-rounds 0 --num-demos 200 --expert experts.driving:prefers_left {SMALL}",
            f"dagger --episodes-per-round 20 {DISTURBED}",
            f"hg_dagger --episodes-per-round 20 --gate-threshold 1.5 --gate-steps 1 {DISTURBED}",
        ],
        CLOSED_SEEDS,
    ),
    # Two modes: whose states are labelled and how many modes a policy can hold are two questions.
    "LaneChange-v0": ([f"dagger --episodes-per-round 20 {SMALL}"], CLOSED_SEEDS),
}

# Ten demonstrations of Humanoid, or as many labels from the starts of fifty; plain and disturbed.
STARTS = "humanoid/starts-v0"
NOISY_STARTS = "humanoid/noisy-starts-v0"
HUMANOID = {
    "Humanoid-v4": (
        [
            *SCRIPTS,
            *[f"{script} --num-demos 50 --dataset {STARTS}" for script in SCRIPTS],
            "dart",
            f"bc_mse --num-demos 50 --dataset {NOISY_STARTS}",
        ],
        [4, 5, 6, 8, 9],
    )
}

# Data sets that are recorded anew for each seed, with the seeds of a script's demonstrations.
RECORDINGS = {
    LEFT: "--env-id LaneChange-v0 --expert experts.driving:prefers_left --episodes 200",
    STARTS: "--env-id Humanoid-v4 --max-episode-steps 200 --episodes 55",
    NOISY_STARTS: "--env-id Humanoid-v4 --max-episode-steps 200 --episodes 55 --noise 0.06",
}

# Ten actions a second, not one in two seconds: is the mean of two modes still a mistake?
RATES = {"LaneChange10Hz-v0": ([f"{script} {ROAD}" for script in SCRIPTS], [*range(21, 26)])}


def two_experts(flags, pair):
    """Demonstrations of one expert; and of it and its mirror image, half of each."""
    both = [f"{script} {flags} --expert benchmark.gaits:{pair}" for script in SCRIPTS]
    return [f"bc_mse {flags}", *both], [4, 5, 6]


GAITS = {
    "Reacher-v4": two_experts("--num-envs 20 --num-demos 200", "reacher"),
    "Swimmer-v4": two_experts("--num-demos 20", "swimmer"),
}
GRIDS = {
    "offline": OFFLINE,
    "modes": MODES,
    "uneven": UNEVEN,
    "roads": ROADS,
    "demonstrations": DEMONSTRATIONS,
    "labels": LABELS,
    "noise": NOISE,
    "closed": CLOSED,
    "rates": RATES,
    "humanoid": HUMANOID,
    "gaits": GAITS,
}


@dataclass
class Machines:
    num_cpus: int | None = None  # runs side by side, each on one core; None: one for each core
    address: str | None = None  # of a Ray cluster, in place of this machine


@dataclass
class Args(Machines):
    grid: Literal[tuple(GRIDS)] = "offline"
    env_ids: tuple[str, ...] = ()  # all of the grid where none are given
    scripts: tuple[str, ...] = ()  # all of the grid where none are given
    num_demos: tuple[int, ...] = ()  # of --grid demonstrations; all of it where none are given
    seeds: tuple[int, ...] = ()  # those of the grid where none are given
    dry_run: bool = False  # only print what is missing


def path_of(env_id, row, seed):
    name = re.sub("[ :/]", "-", row.replace(" --", "-"))
    return RESULTS / f"{env_id}__{name}__{seed}.json"


def with_old_flags(row):
    """The row with the flags that the scripts had when most of the results were made."""
    return re.sub("label-share ([0-9.]+)", lambda m: f"label-every {1 / float(m[1]):.0f}", row)


def read(path):
    """Results that were kept, with the keys of today."""
    results = json.loads(path.read_text())
    results["seconds"] = results.get("seconds", results.get("total_seconds"))
    return results


def is_old(results):
    """Made before the scripts were shortened: their demonstrations and some methods differ."""
    return "schema" not in results


def results_of(env_id, row, seeds):
    """Those of the seeds of a grid that are finished: another grid may have the same row.

    `row` of a result is the row as it was run: with the old flags, as long as there is no other.
    """
    found = []
    for name in (row, with_old_flags(row)):
        paths = [path_of(env_id, name, seed) for seed in seeds]
        found = found or [read(path) | {"row": name} for path in paths if path.exists()]
    return found


def missing_cells(args):
    """Triples of environment, row and seed that have no results yet, seed by seed."""
    grid = GRIDS[args.grid]
    cells = []
    chosen = [with_demos(script, n) for script in SCRIPTS for n in args.num_demos]
    for env_id in args.env_ids or grid:
        rows, seeds = grid[env_id]
        for number, seed in enumerate(args.seeds or seeds):
            for row in rows:
                is_chosen = not args.scripts or row.split()[0] in args.scripts
                is_chosen = is_chosen and (not chosen or row in chosen)
                if is_chosen and not path_of(env_id, row, seed).exists():
                    cells.append((number, env_id, row, seed))
    cells.sort(key=lambda cell: cell[0])  # all rows with one seed say more than few with all
    return [cell[1:] for cell in cells]


def estimated_seconds(env_id, row):
    """The mean of the finished runs of this script in this environment; 300 where there is none."""
    pattern = f"{env_id}__{row.split()[0]}[-_]*.json"
    seconds = [read(path)["seconds"] for path in RESULTS.glob(pattern)]
    return sum(seconds) / len(seconds) if seconds else 300


def run_in(directory, script, env_id, seed, flags):
    """Run a script as people run it: its run's directory, and the line with which it ends."""
    environment = os.environ | {"MINARI_DATASETS_PATH": f"{directory}/datasets"}
    flags = [*flags, "--env-id", env_id, "--seed", str(seed), "--run-dir", f"{directory}/runs"]
    commands = [[f"{script}.py", *flags]]
    for name in RECORDINGS.keys() & set(flags):
        recording = [*RECORDINGS[name].split(), "--dataset-id", name]
        seeds = ["--seed", str(1_000_000 * seed)]
        commands.insert(0, ["-m", "experts.record", *recording, *seeds])
    for command in commands:
        command = [sys.executable, *command]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
        if done.returncode != 0:
            raise RuntimeError(done.stderr[-2000:])
    (run,) = Path(directory, "runs").iterdir()
    return run, done.stdout.strip()


def load(run):
    """The policy of a run, and the run's results."""
    results = json.loads((run / "results.json").read_text())
    module = importlib.import_module(results["algorithm"])
    args = module.Args(**results["args"])
    (env,) = module.make_envs(args, 1)
    policy = module.Policy(env.observation_space, env.action_space, args)
    policy.load_state_dict(load_file(run / "policy.safetensors"))
    return policy, results


def describe(run):
    """The results of a run, and what made them; `run_cells` adds the commit."""
    policy, results = load(run)
    cpuinfo = Path("/proc/cpuinfo")  # of Linux, which gives Python no name
    names = re.findall("model name.*: (.*)", cpuinfo.read_text() if cpuinfo.exists() else "")
    return results | {
        "schema": 2,  # the first had no number
        "env_id": results["args"]["env_id"],
        "seed": results["args"]["seed"],
        "num_parameters": sum(parameter.numel() for parameter in policy.parameters()),
        "versions": {name: version(name) for name in ("torch", "gymnasium", "mujoco", "numpy")},
        "python": platform.python_version(),
        "processor": names[0] if names else platform.processor(),
        "date": date.today().isoformat(),
    }


def run_script(env_id, row, seed):
    """In a worker: the results, and the line with which the script ends."""
    script, *flags = row.split()
    with tempfile.TemporaryDirectory() as directory:
        run, line = run_in(directory, script, env_id, seed, flags)
        return describe(run), line


def run_cells(cells, address=None, num_cpus=None, work=run_script):
    """Run `work` for each cell on Ray, and keep the results that it returns; those that failed."""
    import ray

    git = ["git", "describe", "--always", "--dirty"]
    commit = subprocess.run(git, cwd=ROOT, capture_output=True, text=True).stdout.strip()
    where = {"address": address} if address else {"num_cpus": num_cpus, "include_dashboard": False}
    excluded = ".git .venv* runs benchmark/results benchmark/figures **/__pycache__"
    environment = {"working_dir": str(ROOT), "excludes": excluded.split()}
    ray.init(**where, runtime_env=environment, log_to_driver=False, logging_level="ERROR")
    task = ray.remote(num_cpus=1, max_retries=2)(work)
    pending = {task.remote(*cell): cell for cell in cells}
    failed = []
    begin = time.time()
    while pending:
        (done,), _ = ray.wait(list(pending), num_returns=1)
        cell = pending.pop(done)
        try:
            results, line = ray.get(done)
            temporary = path_of(*cell).with_suffix(".tmp")
            temporary.write_text(json.dumps(results | {"commit": commit}, indent=2))
            temporary.replace(path_of(*cell))
        except ray.exceptions.RayError as error:
            failed.append(cell)
            line = f"FAILED {path_of(*cell).stem}: {str(error).strip().splitlines()[-1]}"
        num_done = len(cells) - len(pending)
        minutes = (time.time() - begin) / num_done * len(pending) / 60
        print(f"[{num_done} of {len(cells)}, {minutes:.0f} min left] {line}", flush=True)
    ray.shutdown()
    return failed


def run_missing(cells, args, work):
    """Run `work` for the cells that have no results yet; those that failed."""
    missing = [cell for cell in cells if not path_of(*cell).exists()]
    return run_cells(missing, args.address, args.num_cpus, work) if missing else []


def trained(script, env_id, seed, *flags):
    """The policy of a run of the script, and the run's results."""
    with tempfile.TemporaryDirectory() as directory:
        run, line = run_in(directory, script, env_id, seed, flags)
        print(line, flush=True)
        return load(run)


def main(args):
    RESULTS.mkdir(exist_ok=True)
    cells = missing_cells(args)
    if args.dry_run:
        for env_id, row, seed in cells:
            print(f"{estimated_seconds(env_id, row):6.0f} s  {env_id}  {row}  --seed {seed}")
        hours = sum(estimated_seconds(env_id, row) for env_id, row, _ in cells) / 3600
        print(f"{len(cells)} runs are missing, about {hours:.1f} core hours")
        return
    failed = run_cells(cells, args.address, args.num_cpus) if cells else []
    print(f"{len(cells) - len(failed)} runs finished, {len(failed)} failed")
    sys.exit(len(failed) > 0)


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
