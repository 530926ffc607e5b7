"""The scripts as people run them: what they write, what they refuse, and how they are stopped."""

import errno
import importlib
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from gymnasium.envs.classic_control import PendulumEnv
from moviepy import VideoFileClip
from safetensors import safe_open
from safetensors.torch import load_file, save_file

ROOT = Path(__file__).parent.parent
SCRIPTS = ["bc_mse", "bc_gaussian", "bc_mog", "bc_autoregressive", "bc_diffusion", "bc_flow"]
DAGGERS = ["dagger", "hg_dagger"]
ALL_SCRIPTS = [*SCRIPTS, *DAGGERS]
LIGHT = [  # where the scripts have the same lines, most of them only with -m slow
    script if script in ("bc_mse", "dagger") else pytest.param(script, marks=pytest.mark.slow)
    for script in ALL_SCRIPTS
]

TINY = ["--num-demos", "4", "--num-envs", "4", "--hidden-dim", "16"]
TINY += ["--num-updates", "50", "--eval-episodes", "4"]
ROAD = ["--env-id", "LaneChange-v0", *TINY]
STABLE_KEYS = """\
    algorithm env_id seed args versions num_transitions expert_labels expert_return eval_returns
    return_mean return_std num_parameters train_seconds total_seconds
"""
KEYS = set(STABLE_KEYS.split())

STRANGERS = '''
"""Environments and experts that somebody else has written."""

import gymnasium as gym
import numpy as np

SEEDS = []


class Target(gym.Env):
    """Ten steps; each one returns minus the distance of the action from 2."""

    observation_space = gym.spaces.Box(-9, 9, (2,), np.float64)
    action_space = gym.spaces.Box(0.5, 3.0, (1,))
    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}
    num_steps = 10

    def __init__(self, render_mode=None):
        self.render_mode = render_mode

    def render(self):
        return np.full((64, 64, 3), 20 * self.t, np.uint8)

    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        SEEDS.append(seed)
        self.seed = seed
        self.t = 0
        return self.observation(), {}

    def step(self, action):
        self.t += 1
        reward = -abs(float(action[0]) - 2)
        return self.observation(), reward, self.t == self.num_steps, False, self.info()

    def observation(self):
        return self.np_random.normal(size=2)

    def info(self):
        return {}


class Goal(Target):
    """One to three steps. Every second seed ends with a success, and every fourth with a mode.

    Without a seed, that is after an episode that has been recorded, it always ends with both.
    """

    def reset(self, seed=None, options=None):
        observation, info = super().reset(seed, options)
        self.num_steps = 1 if seed is None else 1 + seed % 3
        return observation, info

    def info(self):
        if self.seed is None:
            return {"is_success": True, "mode": "not recorded"}
        if self.seed % 2 == 1:
            return {}
        return {"is_success": True} if self.seed % 4 else {"is_success": True, "mode": "A"}


class Talker(Target):
    """Says at the end whatever `answer` is."""

    answer = {}

    def info(self):
        return dict(self.answer)


class Camera(Target):
    def render(self):
        raise ValueError("the lens is dirty")


class Endless(Target):
    """One point for each step, without end."""

    num_steps = None

    def step(self, action):
        observation, _, terminated, truncated, info = super().step(action)
        return observation, 1.0, terminated, truncated, info


class Blind(Target):
    """From the third episode on, a sensor fails in the fifth step."""

    def observation(self):
        fails = self.seed is not None and self.seed >= 2 and self.t == 5
        return np.full(2, np.nan) if fails else super().observation()


class Broken(Target):
    def step(self, action):
        raise ValueError("the motor is hot")


class Unmade(Target):
    def __init__(self):
        raise ValueError("the battery is flat")


class Odd(Target):
    action_space = gym.spaces.MultiBinary(3)


class Table(Target):
    observation_space = gym.spaces.Box(-9, 9, (2, 2))


class Levers(Target):
    action_space = gym.spaces.Box(-1, 1, (2, 2))


for kind in (Target, Goal, Talker, Camera, Blind, Broken, Unmade, Odd, Table, Levers):
    gym.register(f"{kind.__name__}-v0", f"strangers:{kind.__name__}", max_episode_steps=50)
gym.register("Endless-v0", "strangers:Endless")


def two(obs):
    return np.full((len(obs), 1), 2.0)


def answers(obs):
    """Depends on the observation, so that it matters which one was recorded."""
    return 1.5 + 0.5 * np.tanh(obs[:, :1])


def in_place(obs):
    actions = answers(obs)
    obs -= 1
    return actions


def as_list(obs):
    return answers(obs).tolist()


def shape(obs):
    return np.full((len(obs), 5), 2.0)


def nan(obs):
    return np.full((len(obs), 1), np.nan)


def large(obs):
    return np.full((len(obs), 1), 7.0)


def broken(obs):
    raise ValueError("the expert has left")
'''


def run(script, *flags, cwd):
    """The script in a process of its own, as from a shell."""
    with start(script, *flags, cwd=cwd) as process:
        stdout, stderr = process.communicate(timeout=120)
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)


def start(script, *flags, cwd):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, ROOT / f"{script}.py", *flags]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, cwd=cwd, env=environment, text=True, **pipes)


def main(script, *flags):
    """The script in this process."""
    module = importlib.import_module(script)
    module.main(module.parse_args(list(flags)))


def train(script, run_dir, *flags):
    """The directory of a run in this process, and its results."""
    main(
        script, *flags, *(["--num-rounds", "1"] if script in DAGGERS else []), "--run-dir", run_dir
    )
    return results_in(run_dir)


def evaluate(run_dir, checkpoint, *flags):
    """The same for a saved policy, which needs no flags but these."""
    script = checkpoint.parent.name.split("__")[1]
    main(script, "--checkpoint", str(checkpoint), *flags, "--run-dir", str(run_dir))
    return results_in(run_dir)


def results_in(run_dir):
    (path,) = Path(run_dir).glob("*/results.json")
    return path.parent, json.loads(path.read_text(), parse_constant=pytest.fail)  # NaN is no JSON


def metadata_of(path):
    with safe_open(path, framework="pt") as file:
        return json.loads(file.metadata()["metadata"])


def wait_for(pattern, directory):
    """The first file that matches, as soon as it is there."""
    for _ in range(3000):
        for path in directory.glob(pattern):
            return path
        time.sleep(0.02)
    raise TimeoutError(pattern)


@pytest.fixture(autouse=True)
def as_if_alone(tmp_path, monkeypatch):
    """A directory of one's own; the signal handlers that a run has set are taken back."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")  # so that tyro's boxes do not break lines
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture(scope="module")
def strangers(tmp_path_factory):
    """The module of that name can be imported; the directory that it lies in."""
    directory = tmp_path_factory.mktemp("strangers")
    (directory / "strangers.py").write_text(STRANGERS)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(directory)
        patch.setattr(sys, "dont_write_bytecode", True)
        yield directory


TARGET = ["--env-id", "strangers:Target-v0", *TINY]


# --- What a run writes ---


@pytest.mark.parametrize("script", SCRIPTS)
def test_end_to_end(script, tmp_path):
    done = run(script, *ROAD, "--eval-every", "20", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""  # neither warnings nor, without a terminal, a progress bar
    directory, results = results_in(tmp_path / "runs")
    assert done.stdout.count("\n") == 1
    assert done.stdout.startswith(
        f"{script} on LaneChange-v0: return {results['return_mean']:.2f} ±"
    )
    assert f"(demonstrations {results['expert_return']:.2f})" in done.stdout
    assert done.stdout.rstrip().endswith(str(directory.relative_to(tmp_path)))

    assert results.keys() == KEYS | {"held_out_loss", "success_rate", "modes"}
    assert results["algorithm"] == script
    assert results["env_id"] == results["args"]["env_id"] == "LaneChange-v0"
    assert results["seed"] == 0
    assert results["args"]["eval_every"] == 20
    assert results["versions"].keys() == {"torch", "gymnasium", "mujoco", "numpy"}
    assert (
        4 * 5 < results["num_transitions"] == results["expert_labels"] < 4 * 12
    )  # a road's decisions
    assert results["expert_return"] == pytest.approx(1.0)
    assert len(results["eval_returns"]) == 4
    assert 0 < results["return_mean"] <= 1
    assert results["return_mean"] == pytest.approx(np.mean(results["eval_returns"]))
    assert results["return_std"] == pytest.approx(np.std(results["eval_returns"]))
    assert sum(results["modes"].values()) == round(4 * results["success_rate"])
    assert 0 < results["train_seconds"] < results["total_seconds"]
    weights = load_file(directory / "policy.safetensors")
    assert 0 < results["num_parameters"] < sum(tensor.numel() for tensor in weights.values())

    (events,) = directory.glob("events.out.tfevents.*")
    for name in (b"args", b"loss/train", b"loss/held_out", b"eval/return"):
        assert name in events.read_bytes()
    files = {path.name for path in directory.iterdir()} - {events.name}
    assert files == {"policy.safetensors", "results.json"}  # and none that was written beside

    # The saved policy needs no flags; it returns the same, bit for bit.
    _, repeated = evaluate("again", directory / "policy.safetensors")
    assert repeated["eval_returns"] == results["eval_returns"]
    same = KEYS - {"args", "eval_returns", "total_seconds"}
    assert {key: repeated[key] for key in same} == {key: results[key] for key in same}


@pytest.mark.parametrize("script", LIGHT)
def test_videos(script, capfd):
    directory, _ = train(script, "runs", *ROAD, "--capture-video")
    videos = sorted((directory / "videos").iterdir())
    assert [path.name for path in videos] == [f"episode-{number}.mp4" for number in range(3)]
    for path in videos:
        with VideoFileClip(str(path)) as video:
            assert video.fps == 20
            assert 2 < video.duration < 10  # seconds, as long as the drive
    captured = capfd.readouterr()
    assert captured.err == ""
    assert captured.out.count("\n") == 1


def test_videos_of_an_environment_of_ones_own(strangers):
    directory, _ = train("bc_mse", "runs", *TARGET, "--expert", "strangers:two", "--capture-video")
    assert len(list((directory / "videos").glob("*.mp4"))) == 3


@pytest.mark.parametrize("script", ALL_SCRIPTS)
def test_videos_where_nothing_can_be_rendered_are_refused_before_the_training(
    script, strangers, monkeypatch, capsys
):
    def fails(env):
        raise RuntimeError("there is no screen")

    monkeypatch.setattr(PendulumEnv, "render", fails)
    errors = short_refusal(script, ["--env-id", "Pendulum-v1", "--capture-video"], capsys)
    assert "there is no screen" in errors
    assert "MUJOCO_GL=egl" in errors
    with pytest.raises(ValueError, match="the lens is dirty"):
        main(script, "--env-id", "strangers:Camera-v0", "--capture-video")
    assert not Path("runs").exists()


def test_flags_given_with_a_checkpoint_come_before_those_it_was_trained_with():
    directory, results = train("bc_mse", "runs", *ROAD)
    _, others = evaluate("others", directory / "policy.safetensors", "--eval-episodes", "2")
    assert others["eval_returns"] == results["eval_returns"][:2]
    _, others = evaluate("elsewhere", directory / "policy.safetensors", "--env-id", "Slalom-v0")
    assert others["env_id"] == others["args"]["env_id"] == "Slalom-v0"
    assert others["eval_returns"] != results["eval_returns"]
    assert others["num_transitions"] == results["num_transitions"]


@pytest.mark.parametrize("script", ALL_SCRIPTS)
def test_same_seed_same_policy_and_another_seed_another(script):
    runs = [
        train(script, name, *ROAD, "--seed", seed) for name, seed in zip("abc", "112", strict=True)
    ]
    a, b, c = (results["eval_returns"] for _, results in runs)
    assert a == b != c
    a, b, c = (load_file(directory / "policy.safetensors") for directory, _ in runs)
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not all(torch.equal(a[name], c[name]) for name in a)


@pytest.mark.parametrize("script", ALL_SCRIPTS)
def test_a_policy_trained_on_cuda_is_evaluated_without_it(script):
    directory, results = train(script, "runs", *ROAD)
    path = directory / "policy.safetensors"
    metadata = metadata_of(path)
    metadata["args"]["device"] = "cuda"
    save_file(load_file(path), path, {"metadata": json.dumps(metadata)})
    _, again = evaluate("again", path, "--device", "cpu")
    assert again["eval_returns"] == results["eval_returns"]


def test_categories_are_learnt_from_a_few_demonstrations():
    flags = (
        "--env-id CartPole-v1 --num-demos 2 --num-updates 600 --hidden-dim 64 --eval-episodes 10"
    )
    _, results = train("bc_autoregressive", "runs", *flags.split())
    assert results["return_mean"] > 450


def test_chunks_of_actions_from_data_to_evaluation():
    flags = [*ROAD, "--horizon", "4", "--action-horizon", "2"]
    directory, results = train("bc_diffusion", "runs", *flags)
    assert 0 < results["return_mean"] <= 1
    weights = load_file(directory / "policy.safetensors")
    assert weights["net.6.bias"].shape == (4 * 2,)
    _, again = evaluate("again", directory / "policy.safetensors")
    assert again["eval_returns"] == results["eval_returns"]
    # A flag that is wrong with the defaults of the class, and right with those of the checkpoint.
    _, others = evaluate("others", directory / "policy.safetensors", "--action-horizon", "4")
    assert others["args"]["action_horizon"] == others["args"]["horizon"] == 4


def test_an_environment_and_an_expert_of_ones_own(strangers, capfd):
    directory, results = train("bc_mse", "runs", *TARGET, "--expert", "strangers:two")
    assert capfd.readouterr().err == ""
    assert directory.name.startswith("strangers-Target-v0__bc_mse__0__")
    assert results["num_transitions"] == 40
    assert results["expert_return"] == 0.0
    assert results["return_mean"] > -2.5
    assert not {"success_rate", "modes"} & results.keys()  # of which it says nothing


@pytest.mark.parametrize("script", ALL_SCRIPTS)
def test_an_expert_may_change_its_observations_and_may_answer_with_a_list(script, strangers):
    experts = ["answers", "in_place", "as_list"]
    runs = [train(script, name, *TARGET, "--expert", f"strangers:{name}") for name in experts]
    expected, *others = (load_file(directory / "policy.safetensors") for directory, _ in runs)
    for other in others:
        assert all(torch.equal(expected[name], other[name]) for name in expected)


@pytest.mark.parametrize("script", ALL_SCRIPTS)
def test_no_episode_is_played_for_two_purposes(script, strangers):
    import strangers

    strangers.SEEDS.clear()
    train(script, "runs", *TARGET, "--seed", "3", "--expert", "strangers:two")
    seeds = {seed for seed in strangers.SEEDS if seed is not None}
    demonstrations = set(range(3_000_000, 3_000_004))
    held_out = set(range(3_000_004, 3_000_008)) if script in SCRIPTS else set()  # a whole batch
    rounds = set(range(3_001_000, 3_001_004)) if script in DAGGERS else set()
    evaluation = set(range(3_500_000, 3_500_004))
    assert seeds == demonstrations | held_out | rounds | evaluation


@pytest.mark.parametrize("script", ALL_SCRIPTS)
def test_an_episode_that_says_nothing_of_success_had_none(script, strangers):
    flags = ["--env-id", "strangers:Goal-v0", *TINY, "--eval-episodes", "8"]
    _, results = train(script, "runs", *flags, "--expert", "strangers:two")
    assert results["success_rate"] == 0.5
    assert results["modes"] == {"A": 2}  # of eight seeds


@pytest.mark.parametrize("script", ALL_SCRIPTS)
@pytest.mark.parametrize(
    "answer, success_rate, modes",
    [
        ({"is_success": 1.0, "mode": 3}, 1.0, {"3": 4}),
        ({"is_success": np.array([True]), "mode": "A"}, 1.0, {"A": 4}),
        ({"is_success": np.array([True, False])}, 0.0, {}),
        ({"is_success": None, "mode": "A"}, 0.0, {}),
        ({"is_success": True, "mode": {"side": "A"}}, 1.0, {}),
        ({"is_success": {"grasped": True}, "mode": "A"}, None, None),
        ({"is_success": "", "mode": "A"}, 0.0, {}),
    ],
)
def test_success_and_mode_of_any_type(script, answer, success_rate, modes, strangers, monkeypatch):
    import strangers

    module = importlib.import_module(script)
    monkeypatch.setattr(strangers.Talker, "answer", answer)
    args = module.Args(env_id="strangers:Talker-v0")
    policy = SimpleNamespace(act=strangers.two, queue=[])
    results = module.evaluate(args, module.make_envs(args, 2), policy, 4)
    assert results.get("success_rate") == success_rate
    assert results.get("modes") == modes
    json.dumps(results)


@pytest.mark.parametrize("script", ALL_SCRIPTS)
def test_two_runs_of_the_same_second_get_two_directories(script, monkeypatch):
    module = importlib.import_module(script)
    now = [1_000_000.5]
    monkeypatch.setattr(time, "time", lambda: now[0])
    monkeypatch.setattr(time, "sleep", lambda seconds: now.append(now.pop() + seconds))
    first, second = (module.make_run_dir(module.Args(env_id="a:b/C-v0")) for _ in range(2))
    assert first == Path(f"runs/a-b-C-v0__{script}__0__1000000")
    assert second == Path(f"runs/a-b-C-v0__{script}__0__1000001")
    assert first.is_dir()
    assert second.is_dir()


# --- What is refused ---


class Evil:
    """Once it is pickled, loading it makes a directory."""

    def __reduce__(self):
        return os.mkdir, ("executed",)


def refusal(script, flags, capsys):
    """What the script says to wrong input: status 2, and nothing new in the directory."""
    before = sorted(Path().rglob("*"))
    capsys.readouterr()
    with pytest.raises(SystemExit) as exit_:
        main(script, *flags)
    captured = capsys.readouterr()
    assert exit_.value.code == 2
    assert captured.out == ""
    assert "Traceback" not in captured.err
    assert sorted(Path().rglob("*")) == before
    return captured.err


def short_refusal(script, flags, capsys):
    """The same where the script speaks itself: in at most four lines, without tyro's box."""
    errors = refusal(script, flags, capsys)
    assert errors.startswith("error: ")
    assert len(errors.splitlines()) <= 4
    return errors


USAGE = {  # of all scripts
    "no demonstrations": (["--num-demos", "0"], "num_demos must be at least 1"),
    "negative updates": (["--num-updates", "-5"], "num_updates must be at least 1"),
    "no batch": (["--batch-size", "0"], "batch_size must be at least 1"),
    "no network": (["--hidden-dim", "0"], "hidden_dim must be at least 1"),
    "negative seed": (["--seed", "-1"], "seed must be at least 0"),
    "no environments": (["--num-envs", "0"], "num_envs must be at least 1"),
    "no evaluation": (["--eval-episodes", "0"], "eval_episodes must be at least 1"),
    "no steps": (["--max-episode-steps", "0"], "max_episode_steps must be at least 1"),
    "standing still": (["--learning-rate", "0"], "learning_rate must be above 0"),
    "no number": (["--learning-rate", "nan"], "learning_rate must be above 0"),
    "endlessly fast": (["--learning-rate", "inf"], "learning_rate must be above 0"),
    "absent cuda": (["--device", "cuda"], "device cuda"),
    "unknown device": (["--device", "gpu"], "'gpu'"),
    "a word for a number": (["--seed", "one"], "--seed"),
    "unknown flag": (["--num-demo", "3"], "--num-demo"),
}
USAGE_OF_ONE = {
    "no components": ("bc_mog", ["--num-components", "0"], "num_components must be at least 1"),
    "no sigma": ("bc_mog", ["--min-std", "0"], "min_std must be above 0"),
    "a Gaussian without sigma": ("bc_gaussian", ["--min-std", "-1"], "min_std must be above 0"),
    "a single bin": ("bc_autoregressive", ["--num-bins", "1"], "num_bins must be at least 2"),
    "no smoothing": ("bc_autoregressive", ["--smoothing", "0"], "smoothing must be above 0"),
    "more steps than there are": (
        "bc_diffusion",
        ["--num-inference-steps", "51"],
        "num_inference_",
    ),
    "no horizon": ("bc_diffusion", ["--horizon", "0"], "horizon"),
    "executing more than is drawn": ("bc_diffusion", ["--action-horizon", "2"], "action_horizon"),
    "more noise than DDPM": ("bc_diffusion", ["--eta", "1.5"], "eta must be"),
    "no step of the flow": (
        "bc_flow",
        ["--num-inference-steps", "0"],
        "num_inference_steps must be at least 1",
    ),
    "an average that never moves": ("bc_diffusion", ["--ema-decay", "1"], "ema_decay must be"),
}
USAGE_OF_ONE |= {
    f"no evaluation on the way, {script}": (script, ["--eval-every", "0"], "eval_every must be at")
    for script in SCRIPTS
}
USAGE_OF_ONE |= {
    f"{name}, {script}": (script, *USAGE[name]) for name in USAGE for script in ALL_SCRIPTS
}


@pytest.mark.parametrize("name", USAGE_OF_ONE)
def test_wrong_usage_is_answered_in_a_box_and_leaves_nothing(name, capsys):
    script, flags, expected = USAGE_OF_ONE[name]
    if "absent cuda" in name and torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    errors = refusal(script, [*ROAD, *flags], capsys)
    assert not errors.startswith("error: ")
    assert expected in errors
    assert "--help" in errors


OWN = ["--env-id", "strangers:Target-v0", "--expert"]
SHARED = {  # of all scripts
    "unknown environment": (["--env-id", "Hoper-v4"], "--env-id Hoper-v4 cannot be made"),
    "unknown module": (["--env-id", "nowhere:Env-v0"], "--env-id nowhere:Env-v0 cannot be made"),
    "environment without a version": (["--env-id", "a/b/c"], "--env-id a/b/c cannot be made"),
    "no expert": (["--env-id", "strangers:Target-v0"], "--expert module:callable"),
    "actions of no known kind": (["--env-id", "strangers:Odd-v0"], "has actions MultiBinary(3)"),
    "actions that are no vector": (["--env-id", "strangers:Levers-v0"], "has actions Box"),
    "observations that are no Box": (["--env-id", "Blackjack-v1"], "a flat Box is needed"),
    "observations that are no vector": (["--env-id", "strangers:Table-v0"], "a flat Box is needed"),
    "an environment without an end": (["--env-id", "strangers:Endless-v0"], "--max-episode-steps"),
    "unwritable run directory": (["--run-dir", "file/runs"], "--run-dir file/runs"),
    "absent checkpoint": (
        ["--checkpoint", "nothing.safetensors"],
        "--checkpoint nothing.safetensors",
    ),
    "checkpoint that is a directory": (["--checkpoint", "."], "--checkpoint ."),
    "checkpoint that is no safetensors file": (["--checkpoint", "file"], "--checkpoint file"),
    "checkpoint that is code in disguise": (["--checkpoint", "evil"], "--checkpoint evil"),
    "truncated checkpoint": (["--checkpoint", "truncated"], "--checkpoint truncated"),
    "checkpoint of another project": (["--checkpoint", "foreign"], "--checkpoint foreign"),
    "checkpoint that is not a number": (
        ["--checkpoint", "nan"],
        "--checkpoint nan has weights that are not numbers",
    ),
    "checkpoint of another algorithm": (["--checkpoint", "other"], "--checkpoint other"),
    "checkpoint of another shape": (
        ["--checkpoint", "shape", "--env-id", "strangers:Target-v0"],
        "--checkpoint shape does not fit",
    ),
    "expert that does not import": (["--expert", "nowhere:expert"], "--expert nowhere:expert"),
    "expert that is not there": (["--expert", "strangers:nobody"], "--expert strangers:nobody"),
    "expert without a function": (["--expert", "strangers"], "--expert strangers"),
    "expert that cannot be called": (["--expert", "strangers:SEEDS"], "--expert strangers:SEEDS"),
    "expert of the wrong shape": (
        [*OWN, "strangers:shape"],
        "of shape (4, 1) are needed, not (4, 5)",
    ),
    "expert that returns NaN": ([*OWN, "strangers:nan"], "demonstration 0 has actions"),
    "expert out of bounds": ([*OWN, "strangers:large"], "demonstration 0 has actions"),
    "a sensor that fails": (
        ["--env-id", "strangers:Blind-v0", "--expert", "strangers:two"],
        "demonstration 2 has observations",
    ),
    "absent data set": (["--dataset", "no/where-v0"], "--dataset no/where-v0"),
}
WRONG = {
    f"discrete actions, {script}": (script, ["--env-id", "CartPole-v1"], "bc_autoregressive.py")
    for script in SCRIPTS
    if script != "bc_autoregressive"
}
WRONG["a checkpoint with another horizon"] = (
    "bc_diffusion",
    ["--checkpoint", "shape", "--horizon", "2"],
    "--checkpoint shape does not fit",
)
WRONG |= {f"{name}, {script}": (script, *SHARED[name]) for name in SHARED for script in ALL_SCRIPTS}


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """A function that gives the path of a policy that this script has saved."""
    directory = tmp_path_factory.mktemp("checkpoints")
    saved = {}

    def get(script):
        if script not in saved:
            saved[script] = train(script, str(directory / script), *ROAD)[0] / "policy.safetensors"
        return saved[script]

    return get


@pytest.mark.parametrize("name", WRONG)
def test_wrong_input_is_answered_in_a_line_and_leaves_nothing(
    name, tmp_path, strangers, checkpoints, monkeypatch, capsys
):
    script, flags, expected = WRONG[name]
    if "data set" in name:
        pytest.importorskip("minari")
        monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    other = ALL_SCRIPTS[ALL_SCRIPTS.index(script) - 1]
    shutil.copy(checkpoints(script), "shape")
    shutil.copy(checkpoints(other), "other")
    spoilt = load_file("shape")
    spoilt[next(name for name in spoilt if name.endswith("weight"))][0] = float("nan")
    save_file(spoilt, "nan", {"metadata": json.dumps(metadata_of("shape"))})
    Path("truncated").write_bytes(Path("shape").read_bytes()[:-5])
    Path("file").write_text("not a directory")
    Path("evil").write_bytes(pickle.dumps(Evil()))
    save_file({"a": torch.zeros(3)}, "foreign")
    # With a checkpoint the flags would come before what it was trained with.
    flags = flags if "--checkpoint" in flags else [*ROAD, *flags]
    assert expected in short_refusal(script, flags, capsys)


@pytest.mark.slow
def test_wrong_and_odd_inputs_keep_to_the_rules():
    command = [sys.executable, "-m", "tests.odd_inputs"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, [line for line in done.stdout.splitlines() if "| False |" in line]
    assert done.stdout.count("| True |") >= 150


@pytest.mark.slow
def test_wrong_input_from_the_shell_shows_no_traceback(tmp_path):
    done = run("bc_mse", "--env-id", "Hoper-v4", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: --env-id Hoper-v4")
    assert len(done.stderr.splitlines()) <= 4
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("script", ALL_SCRIPTS)
@pytest.mark.parametrize(
    "flags, message",
    [
        (["--env-id", "strangers:Broken-v0", "--expert", "strangers:two"], "the motor is hot"),
        (["--env-id", "strangers:Unmade-v0", "--expert", "strangers:two"], "the battery is flat"),
        (
            ["--env-id", "strangers:Target-v0", "--expert", "strangers:broken"],
            "the expert has left",
        ),
    ],
)
def test_errors_of_a_stranger_keep_their_traceback(script, flags, message, strangers, capsys):
    with pytest.raises(ValueError, match=message) as error:
        main(script, *TINY, *flags)
    assert error.traceback[-1].path.name == "strangers.py"
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("script", ALL_SCRIPTS)
def test_an_environment_without_an_end_is_stopped_by_the_flag(script, strangers):
    flags = ["--env-id", "strangers:Endless-v0", *TINY, "--expert", "strangers:two"]
    _, results = train(script, "runs", *flags, "--max-episode-steps", "7")
    assert results["num_transitions"] >= 4 * 7
    if script in SCRIPTS:
        assert results["num_transitions"] == 4 * 7
    assert results["expert_return"] == 7.0
    assert results["eval_returns"] == [7.0] * 4


@pytest.mark.parametrize("script", ALL_SCRIPTS)
def test_a_loss_that_is_not_finite_stops_the_run(script, monkeypatch, capsys):
    module = importlib.import_module(script)
    loss = module.Policy.loss
    monkeypatch.setattr(module.Policy, "loss", lambda *args: loss(*args) * float("nan"))
    with pytest.raises(SystemExit) as exit_:
        main(script, *ROAD, *(["--num-rounds", "1"] if script in DAGGERS else []))
    assert exit_.value.code == 2
    errors = capsys.readouterr().err
    moment = "after round 0" if script in DAGGERS else "at update 50"
    assert f"the loss is nan {moment}" in errors
    assert "--learning-rate" in errors
    assert len(errors.splitlines()) == 1
    assert not list(Path("runs").glob("*/results.json"))
    if script in SCRIPTS:
        assert not list(Path("runs").glob("*/policy.safetensors"))


# --- How a run is stopped ---

# A policy is saved every 500 updates, and after the last.
TWO_SAVES = [*ROAD, "--batch-size", "32", "--num-updates", "501"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("script", ALL_SCRIPTS)
def test_interruption_of_the_demonstrations_leaves_nothing(
    script, number, strangers, monkeypatch, capfd
):
    import strangers

    monkeypatch.setattr(strangers, "two", lambda obs: signal.raise_signal(number))
    with pytest.raises(SystemExit) as exit_:
        main(script, *TARGET, "--expert", "strangers:two")
    assert exit_.value.code == 130
    assert capfd.readouterr() == ("", "interrupted\n")
    assert not list(Path().iterdir())


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize(
    "number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)]
)
def test_interruption_of_the_training_leaves_the_last_policy(script, number, monkeypatch, capfd):
    module = importlib.import_module(script)
    loss = module.Policy.loss
    updates = []

    def loss_and_interruption(*args):
        updates.append(loss(*args))
        if len(updates) == 502:  # one of them for the held-out loss
            signal.raise_signal(number)
        return updates[-1]

    monkeypatch.setattr(module.Policy, "loss", loss_and_interruption)
    with pytest.raises(SystemExit) as exit_:
        main(script, *TWO_SAVES)
    assert exit_.value.code == 130
    output, errors = capfd.readouterr()
    assert output == ""
    assert len(errors.splitlines()) == 1
    (path,) = Path("runs").glob("*/policy.safetensors")
    assert errors.startswith("interrupted")
    assert str(path.parent) in errors
    _, results = evaluate("again", path, "--eval-episodes", "3")
    assert len(results["eval_returns"]) == 3
    assert results["train_seconds"] > 0


@pytest.mark.parametrize(
    "script, number",
    [
        ("bc_mse", signal.SIGINT),
        pytest.param("bc_mog", signal.SIGTERM, marks=pytest.mark.slow),
        pytest.param("bc_diffusion", signal.SIGINT, marks=pytest.mark.slow),
    ],
)
def test_interruption_from_the_shell_shows_no_traceback(script, number, tmp_path):
    with start(script, *TWO_SAVES, "--num-updates", "1000000", cwd=tmp_path) as process:
        path = wait_for("runs/*/policy.safetensors", tmp_path)
        process.send_signal(number)
        output, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert output == ""
    assert len(errors.splitlines()) == 1
    assert str(path.parent.relative_to(tmp_path)) in errors


@pytest.mark.parametrize("script", LIGHT)
def test_a_full_disk_leaves_whole_what_was_saved_before(script, monkeypatch):
    module = importlib.import_module(script)
    save = module.save_file
    saved = []
    num_saves = 5 if script in DAGGERS else 1  # a DAgger saves a policy and a state each time

    def save_until_the_disk_is_full(tensors, path, metadata):
        saved.append(path)
        save(tensors, path, metadata)
        if len(saved) > num_saves:
            whole = Path(path).read_bytes()
            Path(path).write_bytes(whole[: len(whole) // 2])
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module, "save_file", save_until_the_disk_is_full)
    with pytest.raises(OSError, match="No space left"):
        main(script, *TWO_SAVES, *(["--num-rounds", "3"] if script in DAGGERS else []))
    run_dir = Path(saved[0]).parent
    assert not (run_dir / "results.json").exists()
    _, results = evaluate("again", run_dir / "policy.safetensors", "--eval-episodes", "3")
    assert len(results["eval_returns"]) == 3
    if script in DAGGERS:
        monkeypatch.setattr(module, "save_file", save)
        main(script, "--resume", str(run_dir))
        _, results = results_in("runs")
        assert len(results["rounds"]) == 4
