"""Kill short runs of the two DAggers at random moments, resume them, and compare the results.

    python -m tests.kills --num-kills 20

Of the processor time of a whole run, each n-th part has one of the n kills, at a random moment. A
run that has saved no state by then is started anew. All must end with the numbers of a run that
nobody has killed. Prints "dagger: 20 runs, 19 killed, 17 resumed, 0 different", and the same of
hg_dagger; the exit status is 1 if a number differs.
"""

import json
import multiprocessing
import os
import signal
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch._dynamo  # noqa: F401  # takes seconds, and the first optimiser of a process imports it
import tyro

import dagger
import hg_dagger

SCRIPTS = {"dagger": dagger, "hg_dagger": hg_dagger}
FLAGS = ["--env-id", "LaneChange-v0", "--num-demos", "8", "--num-rounds", "3", "--run-dir", "."]
FLAGS += ["--num-updates", "400", "--hidden-dim", "16", "--batch-size", "64"]
FLAGS += ["--eval-episodes", "10", "--expert", "experts.driving:prefers_left"]
TIMEOUT = 120  # seconds, for a run of one or two


def work(script, flags, directory, seconds):
    """What the process of a run does; 0 seconds do not kill it."""
    signal.setitimer(signal.ITIMER_PROF, seconds)  # its SIGPROF ends a process like SIGKILL
    os.chdir(directory)
    output = os.open("output.txt", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    os.dup2(output, sys.stdout.fileno())
    os.dup2(output, sys.stderr.fileno())
    module = SCRIPTS[script]
    module.main(tyro.cli(module.Args, args=[*FLAGS, *flags]))


def run(script, directory, *flags, seconds=0):
    """A run in a process of its own, killed after so many seconds; whether it was over by then."""
    context = multiprocessing.get_context("fork")  # nothing has to be imported again
    process = context.Process(target=work, args=(script, flags, directory, seconds))
    process.start()
    process.join(TIMEOUT)
    process.kill()
    process.join()
    if process.exitcode not in (0, -signal.SIGPROF):
        raise RuntimeError((directory / "output.txt").read_text())
    return process.exitcode == 0


def numbers_in(directory):
    """The results of the one run in here that has ended, but for its time and its flags."""
    (path,) = directory.glob("*/results.json")
    results = json.loads(path.read_text())
    return {key: results[key] for key in results if key not in ("args", "seconds")}


def count(script, num_kills, seed):
    """How many runs were killed, how many resumed, and how many ended with other numbers."""
    rng = np.random.default_rng(seed)
    before = os.times()
    with tempfile.TemporaryDirectory() as directory:
        run(script, Path(directory))
        expected = numbers_in(Path(directory))
    after = os.times()
    seconds = after.children_user + after.children_system
    seconds -= before.children_user + before.children_system
    counts = {"killed": 0, "resumed": 0, "different": 0}
    for k in range(num_kills):
        with tempfile.TemporaryDirectory() as name:
            directory = Path(name)
            if run(script, directory, seconds=seconds * (k + rng.random()) / num_kills):
                continue
            states = [str(path.parent) for path in directory.glob("*/state.pt")]
            for path in directory.glob("*/results.json"):  # it was killed after its last line
                path.unlink()
            run(script, directory, *(["--resume", *states] if states else []))
            counts["killed"] += 1
            counts["resumed"] += len(states)
            counts["different"] += numbers_in(directory) != expected
    return counts


def main(num_kills: int = 20, seed: int = 0):
    total = 0
    for script in SCRIPTS:
        counts = count(script, num_kills, seed)
        numbers = ", ".join(f"{number} {what}" for what, number in counts.items())
        print(f"{script}: {num_kills} runs, {numbers}", flush=True)
        total += counts["different"]
    sys.exit(1 if total else 0)


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
