"""Kill short runs of the two DAggers at random moments, resume them, and compare the results.

    python -m tests.kills --num-kills 20

Each run is killed by SIGKILL at a moment drawn evenly from the time that a whole run takes after it
has saved its first state. A resumed run must end with the numbers of a run that nobody has killed.
Prints "dagger: 20 kills, 0 different" and the same for hg_dagger; the exit status is 1 if a number
differs.
"""

import json
import multiprocessing
import os
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch._dynamo  # noqa: F401  # takes seconds, and the first optimiser of a process imports it
import tyro

import dagger
import hg_dagger

SCRIPTS = {"dagger": dagger, "hg_dagger": hg_dagger}
FLAGS = ["--env-id", "LaneChange-v0", "--num-demos", "8", "--num-rounds", "3"]
FLAGS += ["--num-updates", "400", "--hidden-dim", "16", "--batch-size", "64"]
FLAGS += ["--eval-episodes", "10", "--expert", "experts.driving:prefers_left"]
COMPARED = ["eval_returns", "rounds", "num_transitions", "expert_labels", "doubts", "tau"]


@dataclass
class Args:
    num_kills: int = 20  # of each script
    seed: int = 0  # of the moments


def work(script, flags, directory):
    """What the process of a run does."""
    os.chdir(directory)
    output = os.open("output.txt", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    os.dup2(output, sys.stdout.fileno())
    os.dup2(output, sys.stderr.fileno())
    module = SCRIPTS[script]
    module.main(module.parse_args(list(flags)))


def start(script, *flags, directory):
    """A run in a process of its own; it is forked, so that nothing has to be imported again."""
    context = multiprocessing.get_context("fork")
    process = context.Process(target=work, args=(script, flags, directory))
    process.start()
    return process


def finish(process, directory):
    """Wait for the end; an error in the run is one here."""
    process.join()
    if process.exitcode != 0:
        raise RuntimeError((directory / "output.txt").read_text())


def wait_for_the_first_state(process, directory):
    """The directory of the run, as soon as it can be resumed."""
    while process.is_alive():
        for path in directory.glob("runs/*/state.safetensors"):
            return path.parent
        time.sleep(0.002)
    raise RuntimeError((directory / "output.txt").read_text())


def numbers_in(run):
    results = json.loads((run / "results.json").read_text())
    return {key: results[key] for key in COMPARED if key in results}


def run_undisturbed(script, directory):
    """The numbers of a whole run, and its seconds after the first state."""
    process = start(script, *FLAGS, directory=directory)
    run = wait_for_the_first_state(process, directory)
    begin = time.time()
    finish(process, directory)
    return numbers_in(run), time.time() - begin


def kill_and_resume(script, directory, seconds):
    """The numbers of a run that is killed after so many seconds; None if it ended before."""
    process = start(script, *FLAGS, directory=directory)
    run = wait_for_the_first_state(process, directory)
    time.sleep(seconds)
    process.kill()
    process.join()
    if (run / "results.json").exists():
        return None
    process = start(script, "--resume", str(run), directory=directory)
    finish(process, directory)
    return numbers_in(run)


def count_differences(script, num_kills, seed):
    """How many of so many killed and resumed runs end with other numbers."""
    rng = np.random.default_rng(seed)
    with tempfile.TemporaryDirectory() as directory:
        expected, seconds = run_undisturbed(script, Path(directory))
    num_different = 0
    killed = 0
    while killed < num_kills:
        with tempfile.TemporaryDirectory() as directory:
            numbers = kill_and_resume(script, Path(directory), rng.uniform(0, seconds))
        if numbers is None:
            continue
        killed += 1
        if numbers != expected:
            num_different += 1
    return num_different


def main(args):
    total = 0
    for script in SCRIPTS:
        num_different = count_differences(script, args.num_kills, args.seed)
        print(f"{script}: {args.num_kills} kills, {num_different} different", flush=True)
        total += num_different
    sys.exit(1 if total else 0)


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
