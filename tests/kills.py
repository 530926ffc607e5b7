"""Kill short runs of the two DAggers at random moments, resume them, and compare the results.

    python -m tests.kills --num-kills 20

Each run is killed by SIGKILL at a moment drawn evenly from the time that a whole run takes after it
has saved its first state. A resumed run must end with the numbers of a run that nobody has killed.
Prints "dagger: 20 kills, 0 different" and the same for hg_dagger; the exit status is 1 if a number
differs.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro

ROOT = Path(__file__).parent.parent
SCRIPTS = ["dagger", "hg_dagger"]
FLAGS = ["--env-id", "LaneChange-v0", "--num-demos", "8", "--num-rounds", "3"]
FLAGS += ["--num-updates", "800", "--hidden-dim", "16", "--batch-size", "64"]
FLAGS += ["--eval-episodes", "10", "--expert", "experts.driving:prefers_left"]
COMPARED = ["eval_returns", "rounds", "num_transitions", "expert_labels", "doubts", "tau"]


@dataclass
class Args:
    num_kills: int = 20  # of each script
    seed: int = 0  # of the moments


def start(script, *flags, cwd):
    """The script in a process of its own."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, ROOT / f"{script}.py", *flags]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, cwd=cwd, env=environment, text=True, **pipes)


def finish(process):
    """Wait for the end; an error in the process is one here."""
    _, errors = process.communicate(timeout=600)
    if process.returncode != 0:
        raise RuntimeError(errors)


def wait_for_the_first_state(directory, process):
    """The directory of the run, as soon as it can be resumed."""
    while process.poll() is None:
        for path in directory.glob("runs/*/state.safetensors"):
            return path.parent
        time.sleep(0.005)
    raise RuntimeError(process.communicate()[1])


def numbers_in(run):
    results = json.loads((run / "results.json").read_text())
    return {key: results[key] for key in COMPARED if key in results}


def run_undisturbed(script, directory):
    """The numbers of a whole run, and its seconds after the first state."""
    process = start(script, *FLAGS, cwd=directory)
    run = wait_for_the_first_state(directory, process)
    begin = time.time()
    finish(process)
    return numbers_in(run), time.time() - begin


def kill_and_resume(script, directory, moment):
    """The numbers of a run that is killed after so many seconds; None if it was faster."""
    process = start(script, *FLAGS, cwd=directory)
    run = wait_for_the_first_state(directory, process)
    time.sleep(moment)
    process.kill()
    process.communicate()
    if (run / "results.json").exists():
        return None
    finish(start(script, "--resume", str(run), cwd=directory))
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
