"""Odd and wrong input at the command line, and what comes of it: python -m tests.odd_inputs

Wrong input has to end in a non-zero status and a last line that says what is wrong. Whatever runs
has to return what the script returns where nothing is odd. The exit status is 1 if a row of the
table is otherwise.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import namedtuple
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import gymnasium as gym
import h5py
import numpy as np
from gymnasium.spaces import Box, Discrete

ROOT = Path(__file__).parent.parent

# --- Environments and experts, as people write them ---


class Plain(gym.Env):
    """Ten steps from zero on. The return is minus the distance of the actions from 2."""

    observation_space = Box(-9, 9, (2,), np.float64)
    action_space = Box(0.5, 3.0, (1,))
    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}

    def __init__(self, render_mode=None):
        self.render_mode = render_mode

    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return np.zeros(2), {}

    def step(self, action):
        self.t += 1
        reward = -1000 * abs(float(np.ravel(action)[0]) - 2)
        return self.np_random.normal(size=2), reward, self.t == 10, False, {}

    def render(self):
        return np.full((64, 64, 3), 20 * self.t, np.uint8)


def spoil_action(self, action):
    result = Plain.step(self, action)
    action[:] = -1
    return result


def fails(*_, **__):
    raise ValueError("the motor is hot")


for name, attributes in {
    "SpoilsAction": {"step": spoil_action},
    "IntegersFirst": {"reset": lambda self, **seed: ([0, 0], Plain.reset(self, **seed)[1])},
    "Dark": {"render": fails},
    "Levers": {"action_space": Box(0.5, 3.0, (2, 2))},
    "Rows": {"observation_space": Box(-9, 9, (2, 2))},
    "Categories": {"action_space": Discrete(3)},
}.items():
    globals()[name] = type(name, (Plain,), attributes)
    gym.register(f"{name}-v0", f"{__name__}:{name}", max_episode_steps=50)
gym.register("Plain-v0", f"{__name__}:Plain", max_episode_steps=50)
gym.register("Endless-v0", f"{__name__}:Plain")


def answers(obs):
    return 1.5 + 0.5 * np.tanh(obs[:, :1])


def changes_input(obs):
    actions = answers(obs)
    obs[:] = 7
    return actions


REUSED = np.zeros((2, 1))
globals().update(
    reuses_output=lambda obs: np.copyto(REUSED, answers(obs)) or REUSED,
    returns_list=lambda obs: answers(obs).tolist(),
    returns_nan=lambda obs: np.nan * answers(obs),
    too_large=lambda obs: 9 * answers(obs),
    too_wide=lambda obs: answers(obs).repeat(5, axis=1),
    too_flat=lambda obs: answers(obs)[:, 0],
    too_few=lambda obs: answers(obs)[1:],
    one=lambda obs: np.ones(len(obs), int),
    float_one=lambda obs: np.ones(len(obs)),
)

# --- The table ---

TINY = "--num-demos 4 --num-envs 2 --hidden-dim 16 --num-updates 60 --eval-episodes 3"
OWN = "--env-id odd_inputs:{}-v0 --expert odd_inputs:{}".format
PLAIN = OWN("Plain", "answers")
ONE = OWN("Categories", "one")
ROAD = "--env-id LaneChange-v0"
CHECKPOINT = "--checkpoint {0}/bc_mse/policy.safetensors"

# What is odd, the script, its flags, and what the last line says. {0} is the folder of `prepare`.
WRONG = [
    ("an unknown environment", "bc_mse", "--env-id Hoper-v4", "Did you mean: `Hopper`"),
    ("a missing module", "bc_mse", "--env-id nowhere:Env-v0", "No module named 'nowhere'"),
    ("no expert", "bc_mse", "--expert None", "--expert module:callable"),
    ("Discrete actions", "bc_mog", ONE, r"space Discrete\(3\); a flat Box is needed"),
    ("no time limit", "bc_mse", OWN("Endless", "answers"), "give --max-episode-steps"),
    ("batch size 0", "bc_mse", "--batch-size 0", "batch_size must be positive"),
    ("a negative seed", "bc_mse", "--seed -1", "Seed must be greater or equal to zero"),
    ("more rounds than updates", "dagger", "--num-updates 5", "num_rounds .* less than num_upd"),
    ("a missing expert", "bc_mse", OWN("Plain", "no"), "odd_inputs:no is no function"),
    ("an expert that raises", "bc_mse", OWN("Plain", "fails"), "the motor is hot"),
    ("NaN as an action", "bc_mse", OWN("Plain", "returns_nan"), "must be finite"),
    ("actions out of bounds", "bc_mse", OWN("Plain", "too_large"), r"actions in Box\(0.5, 3.0"),
    ("actions that are too wide", "bc_mse", OWN("Plain", "too_wide"), r"shape \(10, 5\)"),
    ("actions without a column", "bc_mse", OWN("Plain", "too_flat"), r"shape \(10,\)"),
    ("too few actions", "bc_mse", OWN("Plain", "too_few"), "boolean index did not match"),
    ("floats for Discrete", "dagger", OWN("Categories", "float_one"), "Cannot cast .*float64"),
    ("a missing checkpoint", "bc_mse", "--checkpoint no.safetensors", "No such file"),
    ("a text as checkpoint", "bc_mse", "--checkpoint {0}/text", "deserializing header"),
    ("another task's checkpoint", "bc_mse", f"{ROAD} {CHECKPOINT}", "size mismatch"),
    ("a missing data set", "bc_mse", "--dataset no/where-v0", "no/where-v0 not found"),
    ("too few episodes", "bc_mse", "--dataset odd/plain-v0 --num-demos 5", "episode"),
    ("T observations", "bc_mse", "--dataset odd/cut-v0", "9 observations have actions of shape"),
    ("another task's data set", "bc_mse", f"{ROAD} --dataset odd/plain-v0", "shape"),
    ("no Minari", "bc_mse", "--dataset odd/plain-v0", "No module named 'minari'"),
    ("no renderer", "bc_mse", OWN("Dark", "answers") + " --capture-video", "the motor is hot"),
    ("Ctrl-C in the training", "bc_mse", "--num-updates 1000000", "KeyboardInterrupt"),
    ("to resume nothing", "dagger", "--resume {0}", "No such file .*state.pt"),
    ("a run_dir that is a file", "bc_mse", "--run-dir {0}/text", "Not a directory"),
    ("beta below 0", "dagger", "--beta -0.5", "beta and label_share must be"),
    ("a loss of NaN", "dagger", f"{ONE} --learning-rate 1e30", "the loss is nan"),
]
# These return what the script returns where nothing is odd.
RIGHT = [
    ("a limit in place of none", "bc_mse", OWN("Endless", "answers") + " --max-episode-steps 10"),
    ("the expert's data set", "bc_mse", "--dataset odd/plain-v0"),
    ("its own checkpoint", "bc_mse", CHECKPOINT),
    ("to resume what has ended", "dagger", "--resume {0}/dagger"),
    ("three runs at once", "bc_mse", ""),
]
for script in ("bc_mse", "dagger"):
    RIGHT += [
        ("an expert that changes its input", script, OWN("Plain", "changes_input")),
        ("an expert that reuses its output", script, OWN("Plain", "reuses_output")),
        ("an expert that returns a list", script, OWN("Plain", "returns_list")),
        ("an environment that changes its action", script, OWN("SpoilsAction", "answers")),
        ("a first observation of integers", script, OWN("IntegersFirst", "answers")),
    ]
Row = namedtuple("Row", "case script status last_line kept")


def start(root, folder, *command):
    """Python as from a shell, in a folder of its own."""
    folder.mkdir(exist_ok=True)
    path = os.pathsep.join(map(str, [root, ROOT / "tests", folder]))
    environment = os.environ | {"PYTHONPATH": path, "PYTHONUNBUFFERED": "1", "COLUMNS": "200"}
    environment["MINARI_DATASETS_PATH"] = str(folder.parent)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen([sys.executable, *command], cwd=folder, env=environment, **pipes)


def end(process):
    """The status, and the last line that says something; of a return the numbers."""
    try:
        output, _ = process.communicate(timeout=600)
    finally:
        process.kill()
    lines = [line.strip("│╭╰─╮╯ \t") for line in output.splitlines()]
    lines = [line for line in lines if line and "For full helptext" not in line] or [""]
    numbers = re.search(r"return \S+ ± \S+", lines[-1])
    return process.returncode, numbers[0] if numbers else lines[-1]


def prepare(root, folder):
    """What the cases need; the return of each script where nothing is odd."""
    (folder / "text").write_text("neither a policy nor a directory")
    plain = {}
    for script in ("bc_mse", "dagger"):
        process = start(root, folder / "first", root / f"{script}.py", *f"{TINY} {PLAIN}".split())
        plain[script] = end(process)
        (run,) = folder.glob("first/runs/*")
        run.rename(folder / script)
    record = f"-m experts.record {PLAIN} --episodes 5 --dataset-id odd/plain-v0"
    assert end(start(root, folder / "first", *record.split()))[0] == 0
    shutil.copytree(folder / "odd/plain-v0", folder / "odd/cut-v0")
    with h5py.File(folder / "odd/cut-v0/data/main_data.hdf5", "a") as file:
        for episode in file.values():
            del episode["observations"]
            episode["observations"] = np.zeros((10, 2))
    return plain


def play(root, plain, folder, case, script, flags, expected=None):
    """The row of a case, in an empty folder."""
    folder.mkdir()
    if case == "no Minari":
        (folder / "minari.py").write_text("raise ImportError(\"No module named 'minari'\")")
    flags = f"{TINY} {PLAIN} {flags}".format(folder.parent).split()
    number = 3 if case == "three runs at once" else 1
    processes = [start(root, folder, root / f"{script}.py", *flags) for _ in range(number)]
    if case == "Ctrl-C in the training":
        for _ in range(600):
            time.sleep(0.1)
            if list(folder.glob("runs/*/events*")):
                break
        time.sleep(1)
        processes[0].send_signal(signal.SIGINT)
    ends = {end(process) for process in processes}
    status, last_line = max(ends)
    if expected:
        kept = status != 0 and re.search(expected, last_line) is not None
    else:
        new = 0 if "--resume" in flags else number
        kept = ends == {plain[script]} and len(list(folder.glob("runs/*/results.json"))) == new
    return Row(case, script, status, last_line, kept)


def table(root, folder):
    signal.signal(signal.SIGINT, signal.default_int_handler)  # the background of a shell ignores it
    plain = prepare(root, folder)
    cases = enumerate([*WRONG, *RIGHT])
    with ThreadPoolExecutor(2) as pool:
        runs = [pool.submit(play, root, plain, folder / str(n), *case) for n, case in cases]
        yield from (run.result() for run in runs)


def main():
    broken = False
    print("| what is odd | script | status | last line | kept |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        for row in table(ROOT, Path(name)):
            print("|", " | ".join(str(cell)[:200] for cell in row), "|", flush=True)
            broken |= not row.kept
    return int(broken)


if __name__ == "__main__":
    sys.exit(main())
