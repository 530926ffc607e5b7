"""Run the grids behind the documents' tables, one process a run, on Ray.

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
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from benchmark.grids import ALL, GRIDS, RECORDINGS

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmark" / "results"
ENV_IDS = sorted({env_id for grid in GRIDS.values() for env_id in grid})


@dataclass
class Machines:
    num_cpus: int | None = None  # runs side by side, each on one core; None: one for each core
    address: str | None = None  # of a Ray cluster, in place of this machine


@dataclass
class StudyArgs(Machines):
    only_draw: bool = False  # what is there, and run nothing


@dataclass
class Args(Machines):
    grid: Literal[tuple(GRIDS)] = "offline"
    env_ids: tuple[Literal[tuple(ENV_IDS)], ...] = ()  # all of the grid where none are given
    scripts: tuple[Literal[tuple(ALL)], ...] = ()  # all of the grid where none are given
    seeds: tuple[int, ...] = ()  # those of the grid where none are given
    dry_run: bool = False  # only print what is missing


def path_of(env_id, row, seed):
    name = re.sub("[ :/]", "-", f"{env_id}__{row}__{seed}".replace(" --", "-"))
    return RESULTS / f"{name}.json"


def read(path):
    """Results that were kept, with the keys of today."""
    results = json.loads(path.read_text())
    results["seconds"] = results.get("seconds", results.get("total_seconds"))
    return results


def is_old(results):
    """Made before the scripts were shortened: their demonstrations and some methods differ."""
    return "schema" not in results


def is_missing(env_id, row, seed):
    path = path_of(env_id, row, seed)
    return not path.exists() or is_old(read(path))


def results_of(env_id, row, seeds):
    """Those of the seeds that are finished; old ones only as long as there is no other."""
    paths = [path_of(env_id, row, seed) for seed in seeds]
    found = [read(path) for path in paths if path.exists()]
    return [results for results in found if not is_old(results)] or found


def missing_cells(args):
    """Triples of environment, row and seed that have no results yet, seed by seed."""
    cells = []
    for env_id, (rows, seeds) in GRIDS[args.grid].items():
        if args.env_ids and env_id not in args.env_ids:
            continue
        for number, seed in enumerate(args.seeds or seeds):
            for row in rows:
                is_chosen = not args.scripts or row.script in args.scripts
                if is_chosen and is_missing(env_id, row, seed):
                    cells.append((number, env_id, row, seed))
    cells.sort(key=lambda cell: cell[0])  # all rows with one seed say more than few with all
    return [cell[1:] for cell in cells]


def estimated_seconds(env_id, row):
    """The mean of the finished runs of this script in this environment; 300 where there is none."""
    pattern = path_of(env_id, row.script, "*").name.replace("__*", "[-_]*")
    seconds = [read(path)["seconds"] for path in RESULTS.glob(pattern)]
    return sum(seconds) / len(seconds) if seconds else 300


def run_in(directory, env_id, row, seed):
    """Run a script as people run it: its run's directory, and the line with which it ends."""
    environment = os.environ | {"MINARI_DATASETS_PATH": f"{directory}/datasets"}
    flags = [*row.flags.split(), "--env-id", env_id, "--seed", str(seed)]
    commands = [[f"{row.script}.py", *flags, "--run-dir", f"{directory}/runs"]]
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
    """The results of a run, with the size of its policy."""
    policy, results = load(run)
    return results | {
        "env_id": results["args"]["env_id"],
        "seed": results["args"]["seed"],
        "num_parameters": sum(parameter.numel() for parameter in policy.parameters()),
        "curve": curve_of(run),
    }


def curve_of(run):
    """The evaluations of a run, [[updates, mean return], ...]: on the way and the last one."""
    events = EventAccumulator(str(run))
    events.Reload()
    is_there = "eval/return" in events.Tags()["scalars"]  # DAggers have rounds in their results
    return [[e.step, e.value] for e in events.Scalars("eval/return")] if is_there else []


def made_by():
    """What every result says of the machine and the versions that made it."""
    cpuinfo = Path("/proc/cpuinfo")  # of Linux, which gives Python no name
    names = re.findall("model name.*: (.*)", cpuinfo.read_text() if cpuinfo.exists() else "")
    return {
        "schema": 2,  # the first had no number
        "versions": {name: version(name) for name in ("torch", "gymnasium", "mujoco", "numpy")},
        "python": platform.python_version(),
        "processor": names[0] if names else platform.processor(),
        "date": date.today().isoformat(),
    }


def commit_of_code():
    """The commit, with -dirty where the code has changed since: results may have."""
    head, changed = (
        subprocess.run(["git", *command], cwd=ROOT, capture_output=True, text=True).stdout.strip()
        for command in (["rev-parse", "--short", "HEAD"], ["status", "-s", "*.py", "experts"])
    )
    return f"{head}-dirty" if changed else head


def run_script(env_id, row, seed):
    """In a worker: the results, and the line with which the script ends."""
    with tempfile.TemporaryDirectory() as directory:
        run, line = run_in(directory, env_id, row, seed)
        return describe(run), line


def run_cells(cells, address=None, num_cpus=None, work=run_script):
    """Run `work` for each cell on Ray, and keep the results that it returns; those that failed."""
    import ray

    commit = commit_of_code()
    where = {"address": address} if address else {"num_cpus": num_cpus, "include_dashboard": False}
    excluded = ".git .venv* runs benchmark/results benchmark/figures **/__pycache__"
    environment = {"working_dir": str(ROOT), "excludes": excluded.split()}
    ray.init(**where, runtime_env=environment, log_to_driver=False, logging_level="ERROR")

    @ray.remote(num_cpus=1, max_retries=2)
    def task(*cell):
        results, line = work(*cell)
        return results | made_by(), line

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
    missing = [cell for cell in cells if is_missing(*cell)]
    return run_cells(missing, args.address, args.num_cpus, work) if missing else []


def trained(env_id, row, seed):
    """The policy of a run of the row, and the run's results."""
    with tempfile.TemporaryDirectory() as directory:
        run, line = run_in(directory, env_id, row, seed)
        print(line, flush=True)
        return load(run)


def main(args):
    RESULTS.mkdir(exist_ok=True)
    cells = missing_cells(args)
    if args.dry_run:
        for env_id, row, seed in cells:
            print(
                f"{estimated_seconds(env_id, row):6.0f} s  {env_id}  {row.command}  --seed {seed}"
            )
        hours = sum(estimated_seconds(env_id, row) for env_id, row, _ in cells) / 3600
        print(f"{len(cells)} runs are missing, about {hours:.1f} core hours")
        return
    failed = run_cells(cells, args.address, args.num_cpus) if cells else []
    print(f"{len(cells) - len(failed)} runs finished, {len(failed)} failed")
    sys.exit(len(failed) > 0)


if __name__ == "__main__":
    # By its name, so that a worker imports the copy of the code that Ray brought, and its ROOT.
    from benchmark import run

    run.main(tyro.cli(run.Args, description=__doc__))
