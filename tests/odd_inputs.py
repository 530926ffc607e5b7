"""Wrong and odd inputs, and what came out: python -m tests.odd_inputs > table.md

Each case is a run of a script in a forked process, in a directory of its own. There are three
rules. What a script itself checks is answered in one to four lines and status 2 (a wrong flag, in
tyro's box). What the user's own environment or expert raises keeps its traceback, status 1.
Everything else runs to its end. The last column says whether the case kept to its rule; the exit
status is 1 if one did not.
"""

import contextlib
import importlib
import os
import re
import sys
import tempfile
import traceback
import warnings
from pathlib import Path

from tests.mutants import fork
from tests.test_cli import DAGGERS, SCRIPTS, TINY
from tests.test_cli import USAGE_OF_ONE as WRONG_FLAGS

REFUSED = "refused"
RAISES = "traceback of the user's own code"
RUNS = "runs"

MODULE = '''
"""Environments and experts as strangers write them."""

import gymnasium as gym
import numpy as np
import torch

Box = gym.spaces.Box


class Base(gym.Env):
    """Ten steps."""

    observation_space = Box(-9, 9, (2,))
    action_space = Box(-1, 1, (1,))
    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}
    render_mode = None

    def __init__(self, render_mode=None):
        pass

    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self.look(), {}

    def step(self, action):
        self.t += 1
        return self.look(), self.reward(), self.t == 10, False, self.info()

    def look(self):
        low = np.zeros(self.observation_space.shape)
        return (low + self.np_random.normal(size=low.shape)).astype(self.observation_space.dtype)

    def reward(self):
        return 1.0

    def info(self):
        return {}


def define(name, **attributes):
    globals()[name] = type(name, (Base,), attributes)
    gym.register(f"{name}-v0", f"odd:{name}", max_episode_steps=50)


def raise_error(*_, **__):
    raise KeyError("nothing here")


# Spaces of actions
define("Scalar", action_space=Box(-1, 1, ()))
define("Matrix", action_space=Box(-1, 1, (2, 2)))
define("Empty", action_space=Box(-1, 1, (0,)))
define("Integers", action_space=Box(-3, 3, (2,), np.int64))
define("Doubles", action_space=Box(-1, 1, (2,), np.float64))
define("Unbounded", action_space=Box(-np.inf, np.inf, (2,)))
define("HalfBounded", action_space=Box(np.array([-1, -np.inf]), np.array([1, np.inf])))
define("Many", action_space=Box(-1, 1, (40,)))
define("Categories", action_space=gym.spaces.Discrete(3))
define("Started", action_space=gym.spaces.Discrete(3, start=-5))
define("One", action_space=gym.spaces.Discrete(1))
define("Several", action_space=gym.spaces.MultiDiscrete([2, 3]))
define("SeveralStarted", action_space=gym.spaces.MultiDiscrete([2, 3], start=[4, -2]))
define("Table", action_space=gym.spaces.MultiDiscrete([[2, 3], [4, 5]]))
define("Binary", action_space=gym.spaces.MultiBinary(3))
define("Named", action_space=gym.spaces.Dict(a=Box(-1, 1, (1,))))
define("Pair", action_space=gym.spaces.Tuple([Box(-1, 1, (1,))]))
define("Words", action_space=gym.spaces.Text(3))
# Spaces of observations
define("Image", observation_space=Box(0, 255, (8, 8, 3), np.uint8))
define("Bytes", observation_space=Box(0, 255, (4,), np.uint8))
define("DoubleObs", observation_space=Box(-np.inf, np.inf, (3,), np.float64))
define("State", observation_space=gym.spaces.Discrete(5))
define("NamedObs", observation_space=gym.spaces.Dict(a=Box(-1, 1, (1,))))
define("PairObs", observation_space=gym.spaces.Tuple([Box(-1, 1, (1,))]))
define("WideObs", observation_space=Box(-9, 9, (500,)))
define("Constant", look=lambda self: np.full(2, 3.0, np.float32))
define("Huge", look=lambda self: np.full(2, 1e30, np.float32))
define("NotANumber", look=lambda self: np.full(2, np.nan, np.float32))
define("Infinite", look=lambda self: np.full(2, np.inf, np.float32))
# Rewards and infos
define("Free", reward=lambda self: 0)
define("Punishing", reward=lambda self: -1e9)
define("IntegerReward", reward=lambda self: 1)
define("NumpyReward", reward=lambda self: np.float32(1))
define("Success", info=lambda self: {"is_success": True, "mode": "A"})
define("SuccessOfOne", info=lambda self: {"is_success": np.array([True])})
define("SuccessOfMany", info=lambda self: {"is_success": np.array([True, False])})
define("SuccessOfNothing", info=lambda self: {"is_success": None})
define("SuccessInWords", info=lambda self: {"is_success": "yes", "mode": 7})
define("SuccessOfParts", info=lambda self: {"is_success": {"a": True}, "mode": {"b": 1}})
define("ModeAlone", info=lambda self: {"mode": "A"})
define("ModeOfNumbers", info=lambda self: {"is_success": True, "mode": np.arange(3)})
# Mistakes
define("FailsInReset", reset=raise_error)
define("FailsInStep", step=raise_error)
define("FailsInInit", __init__=raise_error)
define("FailsInRender", render=raise_error)
define("Short", step=lambda self, action: (self.look(), 0.0, True, False, {}))
gym.register("Endless-v0", "odd:Base")
gym.register("Class-v0", Base, max_episode_steps=50)


class Seeded:
    def seed(self, seed):
        self.rng = np.random.default_rng(seed)

    def __call__(self, obs):
        return self.rng.uniform(-1, 1, (len(obs), 1))


number = 3
seeded = Seeded()
zeros = lambda obs: np.zeros((len(obs), 1))
pairs = lambda obs: np.zeros((len(obs), 2))
integer_pairs = lambda obs: np.zeros((len(obs), 2), int)
started_pairs = lambda obs: np.tile([5, -1], (len(obs), 1))
forty = lambda obs: np.zeros((len(obs), 40))
categories = lambda obs: np.ones(len(obs), int)
first_category = lambda obs: np.zeros(len(obs), int)
float_categories = lambda obs: np.ones(len(obs))
started = lambda obs: np.full(len(obs), -4)
tensor = lambda obs: torch.zeros(len(obs), 1)
floats = lambda obs: np.zeros((len(obs), 1), np.float16)
integers = lambda obs: np.zeros((len(obs), 1), int)
booleans = lambda obs: np.zeros((len(obs), 1), bool)
lists = lambda obs: [[0.5]] * len(obs)
nothing = lambda obs: None
words = lambda obs: np.full((len(obs), 1), "left")
flat = lambda obs: np.zeros(len(obs))
wide = lambda obs: np.zeros((len(obs), 2))
single = lambda obs: np.zeros(1)
short = lambda obs: np.zeros((len(obs) - 1, 1))
nan = lambda obs: np.full((len(obs), 1), np.nan)
infinite = lambda obs: np.full((len(obs), 1), np.inf)
large = lambda obs: np.full((len(obs), 1), 1.5)
two_arguments = lambda obs, t: np.zeros((len(obs), 1))
fails = raise_error


def changes(obs):
    obs[:] = 0
    return zeros(obs)
'''
# The environment with the expert that suits it, and what each kind of script makes of it.
BOX_ENVS = {
    "Doubles": "pairs",
    "Unbounded": "pairs",
    "HalfBounded": "pairs",
    "Many": "forty",
    "Integers": "integer_pairs",
    "Bytes": "zeros",
    "DoubleObs": "zeros",
    "WideObs": "zeros",
    "Constant": "zeros",
    "Free": "zeros",
    "Punishing": "zeros",
    "IntegerReward": "zeros",
    "NumpyReward": "zeros",
    "Success": "zeros",
    "SuccessOfOne": "zeros",
    "SuccessOfMany": "zeros",
    "SuccessOfNothing": "zeros",
    "SuccessInWords": "zeros",
    "SuccessOfParts": "zeros",
    "ModeAlone": "zeros",
    "ModeOfNumbers": "zeros",
    "Short": "zeros",
    "Huge": "zeros",
}
REFUSED_ENVS = ["Scalar", "Matrix", "Binary", "Named", "Pair", "Words", "Table", "Image"]
REFUSED_ENVS += ["State", "NamedObs", "PairObs", "NotANumber", "Infinite", "Endless", "Absent"]
CATEGORY_ENVS = {
    "Categories": "categories",
    "Started": "started",
    "One": "first_category",
    "Several": "integer_pairs",
    "SeveralStarted": "started_pairs",
}
EXPERTS = {
    RUNS: ["zeros", "tensor", "floats", "integers", "booleans", "lists", "seeded", "changes"],
    REFUSED: ["flat", "wide", "single", "short", "nan", "infinite", "large", "number", "absent"],
    RAISES: ["fails", "two_arguments"],
}
FLAGS = {
    RUNS: [
        "--num-demos 1",
        "--num-envs 1",
        "--num-envs 64",
        "--eval-episodes 1",
        "--eval-episodes 7",
        "--batch-size 1",
        "--batch-size 5000",
        "--hidden-dim 1",
        "--seed 2000000000",
        "--learning-rate 1e-30",
        "--max-episode-steps 1",
        "--run-dir new/deep/runs",
        "--no-capture-video",
        "--dataset ''",
        "--num_updates 60",
        "--env_id LaneChange-v0",
    ],
    REFUSED: [
        "--env-id",
        "--env-id ''",
        "--env-id LaneChange",
        "--env-id LaneChange-v9",
        "--env-id nowhere:LaneChange-v0",
        "--expert",
        "--expert odd",
        "--expert odd:",
        "--expert :zeros",
        "--expert .odd:zeros",
        "--expert odd.zeros",
        "--num-demos 2.5",
        "--num-demos ten",
        "--learning-rate 1e400",
        "--max-episode-steps -3",
        "--seed -1",
        "--help-me",
        "extra",
        "--checkpoint odd.py",
        "--checkpoint .",
        "--dataset odd/odd/odd",
        "--capture-video maybe",
        "--capture-video False",
    ],
}


def cases():
    """(script, flags, rule): whatever is in the tables above, and the wrong flags of test_cli."""
    for script, flags, _ in WRONG_FLAGS.values():
        yield script, flags, REFUSED
    for script in ("bc_mse", "bc_autoregressive", "dagger"):
        discrete = {"bc_mse": 0, "bc_autoregressive": 5, "dagger": 3}[script]
        for name, expert in BOX_ENVS.items():
            yield script, ["--env-id", f"odd:{name}-v0", "--expert", f"odd:{expert}"], RUNS
        for name in REFUSED_ENVS:
            yield script, ["--env-id", f"odd:{name}-v0", "--expert", "odd:zeros"], REFUSED
        for number, (name, expert) in enumerate(CATEGORY_ENVS.items()):
            rule = RUNS if number < discrete else REFUSED
            yield script, ["--env-id", f"odd:{name}-v0", "--expert", f"odd:{expert}"], rule
        for rule, experts in EXPERTS.items():
            for expert in experts:
                yield script, ["--env-id", "odd:Short-v0", "--expert", f"odd:{expert}"], rule
        for name in ("FailsInReset", "FailsInStep", "FailsInInit"):
            yield script, ["--env-id", f"odd:{name}-v0", "--expert", "odd:zeros"], RAISES
        for rule, lines in FLAGS.items():
            for line in lines:
                words = [word.strip("'") for word in line.split(" ")]
                yield script, ["--env-id", "LaneChange-v0", *words], rule


def run(script, flags):
    """In a forked process: the script, from its command line to its end."""
    module = importlib.import_module(script)
    rounds = ["--num-rounds", "1"] if script in DAGGERS else []
    warnings.simplefilter("ignore")
    try:
        module.main(module.parse_args([*TINY, *rounds, *flags]))
    except SystemExit as exit_:
        return exit_.code or 0
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def judge(status, text, rule):
    """Whether the case kept to its rule."""
    has_traceback = "Traceback" in text
    if rule == RUNS:
        return status == 0 and not has_traceback
    if rule == RAISES:
        return status == 1 and has_traceback
    num_lines = len(text.splitlines())
    return status == 2 and not has_traceback and ("╭" in text or num_lines <= 4)


def first_words(text):
    """What the user sees first, in at most 90 characters."""
    lines = [line.strip("│╭╰─╮╯ ") for line in text.splitlines()]
    lines = [line for line in lines if line and line not in ("Parsing error",)]
    shown = lines[-1] if "Traceback" in text else lines[0] if lines else ""
    shown = re.sub(r"/\S*/", "", shown).replace("|", "/")
    return shown[:90]


def main():
    for name in ("gymnasium", "torch._dynamo", "torch.utils.tensorboard", "tyro", "minari"):
        with contextlib.suppress(ImportError):
            importlib.import_module(name)  # once, for all forks
    for script in [*SCRIPTS, *DAGGERS]:
        importlib.import_module(script)
    os.environ["COLUMNS"] = "200"
    print("| script | flags | rule | status | what it says | kept |\n|---|---|---|---|---|---|")
    num_broken = 0
    num_cases = 0
    for script, flags, rule in cases():
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            (folder / "odd.py").write_text(MODULE)
            log = folder / "log"

            def start(folder=folder, script=script, flags=flags):
                os.chdir(folder)
                os.environ["MINARI_DATASETS_PATH"] = str(folder)
                sys.path.insert(0, str(folder))
                return run(script, flags)

            status = fork(start, log)
            text = log.read_text()
        kept = judge(status, text, rule)
        num_broken += not kept
        num_cases += 1
        shown = " ".join(flags).replace("--env-id LaneChange-v0 ", "", 1)
        says = first_words(text)
        print(f"| {script} | `{shown}` | {rule} | {status} | {says} | {kept} |", flush=True)
    print(f"\n{num_cases} cases, {num_broken} of which broke their rule")
    return int(num_broken > 0)


if __name__ == "__main__":
    sys.exit(main())
