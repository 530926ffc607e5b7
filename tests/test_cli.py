"""The scripts as people run them: through the command line, from a directory of their own."""

import importlib
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
import tyro
from safetensors import safe_open
from safetensors.torch import save_file

import bc_mse
from benchmark.run import SCRIPTS
from experts import make_envs

ROOT = Path(__file__).parent.parent
ALL_SCRIPTS = [*SCRIPTS, "dagger", "hg_dagger"]
SMALL = ["--env-id", "LaneChange-v0", "--num-demos", "8", "--num-updates", "60", "--eval-episodes", "10"]
TINY = [*SMALL, "--eval-every", "30"]
STABLE_KEYS = """\
    algorithm env_id seed args versions num_transitions expert_labels eval_returns return_mean return_std expert_return
    random_return normalized_return train_seconds total_seconds updates_per_second num_parameters
    microseconds_per_action success_rate mode_counts mode_entropy
"""


def run(script, *flags, cwd, env=None):
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | (env or {})
    command = [sys.executable, str(ROOT / f"{script}.py"), *flags]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=120)


def results_in(run_dir):
    (path,) = Path(run_dir).glob("*/results.json")
    return path.parent, json.loads(path.read_text())


@pytest.mark.parametrize("script", SCRIPTS)
def test_end_to_end(script, tmp_path):
    done = run(script, *TINY, "--capture-video", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""  # neither warnings nor, without a terminal, a progress bar
    assert done.stdout.count("\n") == 1 and done.stdout.startswith(f"{script} on LaneChange-v0: return ")
    directory, results = results_in(tmp_path / "runs")
    assert results.keys() >= set(STABLE_KEYS.split())
    assert results["algorithm"] == script and results["num_transitions"] == results["expert_labels"] > 40
    assert len(results["eval_returns"]) == 10 and 0 < results["return_mean"] <= 1
    assert results["expert_return"] == 1.0 and 0 < results["random_return"] < 1
    assert len(list((directory / "videos").glob("*.mp4"))) == 3
    assert list(directory.glob("events.out.tfevents.*"))

    # The saved policy, evaluated anew, returns the same.
    again = run(
        script, *TINY, "--checkpoint", str(directory / "policy.safetensors"), "--run-dir", "again", cwd=tmp_path
    )
    assert again.returncode == 0, again.stderr
    assert results_in(tmp_path / "again")[1]["eval_returns"] == results["eval_returns"]


@pytest.mark.parametrize("script", SCRIPTS)
def test_same_seed_same_returns_and_another_seed_others(script, tmp_path):
    def start(name, seed):
        return run(script, *TINY, "--run-dir", name, "--seed", seed, cwd=tmp_path)

    with ThreadPoolExecutor() as pool:
        for done in pool.map(start, "abc", "112"):
            assert done.returncode == 0, done.stderr
    a, b, c = (results_in(tmp_path / name)[1]["eval_returns"] for name in "abc")
    assert a == b != c


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_runs_copied_alone_beside_the_experts(script, tmp_path):
    shutil.copy(ROOT / f"{script}.py", tmp_path / "mine.py")
    shutil.copytree(ROOT / "experts", tmp_path / "experts")
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [sys.executable, "mine.py", *TINY]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert results_in(tmp_path / "runs")[1]["algorithm"] == "mine"


def test_categories_are_learnt_from_a_few_demonstrations(tmp_path):
    flags = ["--env-id", "CartPole-v1", "--num-demos", "5", "--num-updates", "1000", "--eval-episodes", "20"]
    done = run("bc_autoregressive", *flags, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert results_in(tmp_path / "runs")[1]["return_mean"] > 450


def test_chunks_of_actions_from_data_to_evaluation(tmp_path):
    done = run("bc_diffusion", *TINY, "--horizon", "4", "--action-horizon", "2", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    directory, results = results_in(tmp_path / "runs")
    assert 0 < results["return_mean"] <= 1
    done = run("bc_diffusion", *TINY, "--checkpoint", str(directory / "policy.safetensors"), cwd=tmp_path)
    assert done.returncode == 2  # the network draws four actions, not one


def test_module_environment_and_callable_expert(tmp_path):
    (tmp_path / "mine.py").write_text(
        "import gymnasium as gym, numpy as np\n"
        "class Env(gym.Env):\n"
        "    observation_space = gym.spaces.Box(-9, 9, (2,), np.float64)\n"
        "    action_space = gym.spaces.Box(np.array([0.5], 'f'), np.array([3.0], 'f'))\n"
        "    def reset(self, seed=None, options=None):\n"
        "        super().reset(seed=seed); self.t = 0; return self.np_random.normal(size=2), {}\n"
        "    def step(self, action):\n"
        "        self.t += 1\n"
        "        return self.np_random.normal(size=2), -abs(float(action[0]) - 2), self.t == 10, False, {}\n"
        "gym.register('own/Mine-v0', lambda: Env())\n"
        "def expert(obs): return np.full((len(obs), 1), 2.0)\n"
    )
    flags = ["--env-id", "mine:own/Mine-v0", "--expert", "mine:expert", "--num-updates", "50", "--eval-episodes", "5"]
    done = run("bc_mse", *flags, cwd=tmp_path, env={"PYTHONPATH": f"{ROOT}:{tmp_path}"})
    assert done.returncode == 0, done.stderr
    _, results = results_in(tmp_path / "runs")
    assert results["expert_return"] == 0.0 and results["normalized_return"] > 0.9


class Goal(gym.Env):
    """Episodes of one step; from an even seed the goal is reached, and only then is there an `is_success`."""

    observation_space = action_space = gym.spaces.Box(-1, 1, (1,))

    def reset(self, *, seed=None, options=None):
        self.success = seed % 2 == 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        return np.zeros(1, np.float32), 0.0, True, False, {"is_success": True} if self.success else {}


@pytest.mark.parametrize("seed", [0, 1])
def test_an_episode_that_says_nothing_of_success_had_none(seed):
    if "Goal-v0" not in gym.registry:
        gym.register("Goal-v0", Goal)
    envs = make_envs("Goal-v0", 1)
    policy = bc_mse.Policy(bc_mse.Args(), envs.single_observation_space, envs.single_action_space)
    assert bc_mse.evaluate(envs, policy, 6, seed)["success_rate"] == 0.5


class Evil:
    """Once it is pickled, loading it makes a directory."""

    def __reduce__(self):
        return os.mkdir, ("executed",)


def refusal(script, flags, directory, capsys):
    """What the script says to wrong input: status 2, at most two lines, and nothing new in the directory."""
    module, before = importlib.import_module(script), sorted(directory.iterdir())
    with pytest.raises(SystemExit) as exit_:
        module.main(tyro.cli(module.Args, args=flags))
    errors = capsys.readouterr().err
    assert exit_.value.code == 2 and len(errors.strip().splitlines()) <= 2
    assert sorted(directory.iterdir()) == before
    return errors


SHARED = {  # of all seven scripts
    "unknown environment": (["--env-id", "Hoper-v4"], "--env-id Hoper-v4"),
    "unknown module": (["--env-id", "nowhere:Env-v0"], "--env-id nowhere:Env-v0"),
    "no expert": (["--env-id", "wrong:Quiet-v0"], "--expert module:callable"),
    "actions of no known kind": (["--env-id", "wrong:Odd-v0"], "action space is needed, not MultiBinary"),
    "observations that are no flat Box": (["--env-id", "Blackjack-v1"], "a flat Box is needed"),
    "no demonstrations": (["--num-demos", "0"], "--num-demos must be at least 1"),
    "negative updates": (["--num-updates", "-5"], "--num-updates must be at least 1"),
    "no batch": (["--batch-size", "0"], "--batch-size must be at least 1"),
    "no network": (["--hidden-dim", "0"], "--hidden-dim must be at least 1"),
    "negative seed": (["--seed", "-1"], "--seed must be at least 0"),
    "no environments": (["--num-envs", "0"], "--num-envs must be at least 1"),
    "no evaluation": (["--eval-episodes", "0"], "--eval-episodes must be at least 1"),
    "no steps": (["--max-episode-steps", "0"], "--max-episode-steps must be at least 1"),
    "two limits": (["--env-id", "Hopper-v4", "--max-episode-steps", "9"], "--max-episode-steps 9: Hopper-v4 sets 1000"),
    "unwritable run directory": (["--run-dir", "file/runs"], "--run-dir file/runs"),
    "absent checkpoint": (["--checkpoint", "nothing.safetensors"], "--checkpoint nothing.safetensors"),
    "checkpoint that is no safetensors file": (["--checkpoint", "file"], "--checkpoint file"),
    "checkpoint that is code in disguise": (
        ["--checkpoint", "evil.safetensors"],
        "--checkpoint evil.safetensors is not",
    ),
    "truncated checkpoint": (["--checkpoint", "truncated.safetensors"], "--checkpoint truncated.safetensors"),
    "checkpoint of another algorithm": (["--checkpoint", "foreign.safetensors"], "made with {'algorithm': 'other'"),
    "checkpoint of another environment": (["--checkpoint", "elsewhere.safetensors"], "'env_id': 'Hopper-v4'"),
    "checkpoint of another shape": (["--checkpoint", "shape.safetensors"], "--checkpoint shape.safetensors is not"),
    "expert that does not import": (["--expert", "nowhere:expert"], "--expert nowhere:expert"),
    "expert of the wrong shape": (["--expert", "wrong:shape"], "returned shape"),
    "expert that returns NaN": (["--expert", "wrong:nan"], "not finite"),
    "expert out of bounds": (["--expert", "wrong:large"], "clip them to its bounds"),
    "absent data set": (["--dataset", "no/where-v0"], "--dataset no/where-v0"),
    "absent cuda": (["--device", "cuda"], "--device cuda"),
    "unknown device": (["--device", "gpu"], "--device gpu"),
    "expert whose own file is absent": (["--expert", "fileless:expert"], "--expert fileless:expert cannot be imported"),
    "environment that wants arguments": (["--env-id", "wrong:Needy-v0"], "--env-id wrong:Needy-v0 cannot be made"),
}
WRONG = {
    "discrete actions": ("bc_mog", ["--env-id", "CartPole-v1"], "bc_autoregressive.py"),
    "no components": ("bc_mog", ["--num-components", "0"], "--num-components"),
    "no sigma": ("bc_mog", ["--min-std", "0"], "--min-std"),
    "a Gaussian without sigma": ("bc_gaussian", ["--min-std", "-1"], "--min-std"),
    "a single bin": ("bc_autoregressive", ["--num-bins", "1"], "--num-bins"),
    "no smoothing": ("bc_autoregressive", ["--smoothing", "0"], "--smoothing"),
    "more steps at test time than in training": (
        "bc_diffusion",
        ["--num-inference-steps", "51"],
        "--num-inference-steps",
    ),
    "no horizon": ("bc_diffusion", ["--horizon", "0"], "--horizon must be at least 1"),
    "executing more than is drawn": ("bc_diffusion", ["--action-horizon", "2"], "--action-horizon"),
    "more noise than DDPM": ("bc_diffusion", ["--eta", "1.5"], "--eta"),
    "an average that never moves": ("bc_diffusion", ["--ema-decay", "1"], "--ema-decay"),
    "no evaluations on the way": ("bc_mse", ["--eval-every", "0"], "--eval-every must be at least 1"),
}
WRONG |= {f"{name}, {script}": (script, *case) for name, case in SHARED.items() for script in ALL_SCRIPTS}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_input_is_answered_in_two_lines_and_leaves_nothing(name, tmp_path, monkeypatch, capsys):
    script, flags, expected = WRONG[name]
    if "absent cuda" in name and torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    (tmp_path / "file").write_text("not a directory")
    (tmp_path / "wrong.py").write_text(
        "import gymnasium as gym, numpy as np\n"
        "class Quiet(gym.Env):\n"
        "    observation_space, action_space = gym.spaces.Box(-1, 1, (1,)), gym.spaces.Box(-1, 1, (1,))\n"
        "class Odd(Quiet): action_space = gym.spaces.MultiBinary(3)\n"
        "class Needy(Quiet):\n"
        "    def __init__(self, size): pass\n"
        "for kind in (Quiet, Odd, Needy):\n"
        "    if (name := f'{kind.__name__}-v0') not in gym.registry: gym.register(name, kind)\n"
        "def shape(obs): return np.zeros((len(obs), 5))\n"
        "def nan(obs): return np.full((len(obs), 2), np.nan)\n"
        "def large(obs): return np.full((len(obs), 2), 7.0)\n"
    )
    (tmp_path / "fileless.py").write_text("open('absent.zip')")
    (tmp_path / "evil.safetensors").write_bytes(pickle.dumps(Evil()))
    metadata = {"algorithm": script, "env_id": "LaneChange-v0"}
    for file, other in (("shape", {}), ("foreign", {"algorithm": "other"}), ("elsewhere", {"env_id": "Hopper-v4"})):
        text = {"metadata": json.dumps(metadata | other)}
        save_file({"a": torch.zeros(3)}, tmp_path / f"{file}.safetensors", text)
    (tmp_path / "truncated.safetensors").write_bytes((tmp_path / "shape.safetensors").read_bytes()[:-5])
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    assert expected in refusal(script, [*SMALL, *flags], tmp_path, capsys)


def test_wrong_input_from_the_shell_shows_no_traceback(tmp_path):
    done = run("bc_mse", "--env-id", "Hoper-v4", cwd=tmp_path)
    assert done.returncode == 2 and done.stdout == "" and len(done.stderr.strip().splitlines()) <= 2
    assert "Traceback" not in done.stderr and not list(tmp_path.iterdir())


LONG = ["--env-id", "LaneChange-v0", "--num-demos", "8", "--num-updates", "1000000"]


def start_and_wait_for_a_policy(script, *flags, cwd):
    """The process, and the directory in which it has saved its first policy."""
    command = [sys.executable, str(ROOT / f"{script}.py"), *LONG, *flags]
    process = subprocess.Popen(command, cwd=cwd, env=os.environ | {"PYTHONPATH": str(ROOT)}, stderr=subprocess.PIPE)
    for _ in range(600):
        if policies := list(cwd.glob("runs/*/policy.safetensors")):
            return process, policies[0].parent
        time.sleep(0.1)
    raise TimeoutError


@pytest.mark.parametrize("script, number", [("bc_mse", signal.SIGINT), ("bc_diffusion", signal.SIGTERM)])
def test_interruption_keeps_the_best_policy_so_far(script, number, tmp_path):
    process, directory = start_and_wait_for_a_policy(script, cwd=tmp_path)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert str(directory.relative_to(tmp_path)) in errors.decode() and b"Traceback" not in errors
    with safe_open(directory / "policy.safetensors", framework="pt") as file:
        assert json.loads(file.metadata()["metadata"])["update"] >= 250  # it says how far it came
    done = run(script, *TINY, "--checkpoint", str(directory / "policy.safetensors"), cwd=tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a limit on the files of a running process")
@pytest.mark.parametrize("script", ["bc_gaussian", "dagger"])
def test_a_full_disk_is_named_and_leaves_what_was_saved_whole(script, tmp_path):
    import resource

    flags = ["--num-rounds", "900", "--num-updates", "2000"] if script == "dagger" else ["--learning-rate", "1e-5"]
    process, directory = start_and_wait_for_a_policy(script, *flags, cwd=tmp_path)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (5000, 5000))  # as good as a full disk
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1 and b"Traceback" not in errors
    assert b"File too large" in errors and b"what was saved before is whole" in errors
    done = run(script, *SMALL, "--checkpoint", str(directory / "policy.safetensors"), cwd=tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("script", ALL_SCRIPTS)
def test_a_loss_that_is_not_finite_stops_the_run(script, tmp_path, monkeypatch, capsys):
    module = importlib.import_module(script)
    loss = module.Policy.loss
    monkeypatch.setattr(module.Policy, "loss", lambda *args: loss(*args) * float("nan"))
    monkeypatch.chdir(tmp_path)
    flags = [*SMALL, "--num-updates", "300"] + (["--num-rounds", "1"] if "dagger" in script else [])
    with pytest.raises(SystemExit) as exit_:
        module.main(tyro.cli(module.Args, args=flags))
    errors = capsys.readouterr().err
    assert exit_.value.code == 2 and "the loss is nan" in errors and "--learning-rate" in errors
    assert ("after round 0" if "dagger" in script else "at update 250") in errors


@pytest.mark.parametrize("script", ["bc_mse", "dagger"])
def test_an_environment_without_an_end_is_stopped_and_that_is_said(script, tmp_path):
    (tmp_path / "endless.py").write_text(
        "import gymnasium as gym, numpy as np\n"
        "class Env(gym.Env):\n"
        "    observation_space, action_space = gym.spaces.Box(-9, 9, (1,)), gym.spaces.Box(-1, 1, (1,))\n"
        "    def reset(self, seed=None, options=None): return np.zeros(1, 'f'), {}\n"
        "    def step(self, action): return np.zeros(1, 'f'), float(action[0]), False, False, {}\n"
        "gym.register('Endless-v0', Env)\n"
        "def expert(obs): return np.ones((len(obs), 1), 'f')\n"
    )
    flags = ["--env-id", "endless:Endless-v0", "--expert", "endless:expert", "--num-updates", "50", "--num-demos", "2"]
    flags += ["--eval-episodes", "3", "--max-episode-steps", "7"] + (["--num-rounds", "1"] * (script == "dagger"))
    done = run(script, *flags, cwd=tmp_path, env={"PYTHONPATH": f"{ROOT}:{tmp_path}"})
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("\n") == 1 and "stopped after 7 steps (--max-episode-steps)" in done.stderr
    _, results = results_in(tmp_path / "runs")
    assert results["expert_return"] == 7.0 and abs(results["random_return"]) < 3
    assert results["eval_returns"] == pytest.approx([7.0] * 3, abs=0.5)  # of seven steps, learnt in 50 updates
