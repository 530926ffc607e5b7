"""The shipped experts: their files, their returns, and how they are loaded."""

import os
import pickle
import subprocess
import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from safetensors import SafetensorError

import bc_autoregressive
import experts

ROOT = Path(experts.__file__).parent.parent
SHIPPED = sorted(path.stem for path in experts.WEIGHTS.glob("*.safetensors"))
LOCOMOTION = {
    "Hopper": 3500,
    "Walker2d": 5500,
    "HalfCheetah": 11_000,
    "Ant": 5500,
    "Humanoid": 6200,
}
FLOORS = {
    "CartPole-v1": 500,
    "Acrobot-v1": -85,
    "LunarLander-v3": 240,
    "LunarLanderContinuous-v3": 270,
    "Swimmer-v4": 340,
    "InvertedPendulum-v4": 1000,
    "InvertedDoublePendulum-v4": 9300,
    "Reacher-v4": -4.5,
    "Pendulum-v1": -160,
    "MountainCarContinuous-v0": 93,
    "BipedalWalker-v3": 300,
}
FLOORS |= {f"{name}-v4": floor for name, floor in LOCOMOTION.items()}
FLOORS |= {f"{name}-v5": floor for name, floor in LOCOMOTION.items()}


@pytest.fixture(autouse=True)
def one_thread():
    """With two, networks of this size are slower, and much slower where another process runs."""
    torch.set_num_threads(1)


def test_each_expert_has_a_floor():
    assert FLOORS.keys() == set(SHIPPED)
    assert experts.available() == sorted([*SHIPPED, *experts.DRIVING])


LONG = ["BipedalWalker-v3", "Humanoid-v4", *(name for name in SHIPPED if name.endswith("-v5"))]


@pytest.mark.parametrize(
    "env_id",
    [
        pytest.param(env_id, marks=pytest.mark.slow) if env_id in LONG else env_id
        for env_id in SHIPPED
    ],
)
def test_expert_reaches_its_recorded_return(env_id):
    expert = experts.load_expert(env_id)
    recorded = float(expert.metadata["return_mean"])
    span = recorded - float(expert.metadata["random_return"])
    is_steady = float(expert.metadata["return_std"]) < 0.03 * abs(recorded)
    num_episodes = 3 if is_steady else 10
    envs = bc_autoregressive.make_envs(bc_autoregressive.Args(env_id=env_id), num_episodes)
    episodes = bc_autoregressive.rollout(envs, expert, num_episodes, seed=50_000)
    returns = [episode.rewards.sum() for episode in episodes]
    assert np.mean(returns) > recorded - 0.05 * span
    assert recorded >= FLOORS[env_id]
    if env_id.split("-")[0] in LOCOMOTION:  # that is, it does not fall
        share = 0.1 if "Humanoid" in env_id else 0.05
        assert float(expert.metadata["return_std"]) <= share * recorded


@pytest.mark.parametrize("env_id", SHIPPED)
def test_expert_is_a_batched_callable_that_says_what_made_it(env_id):
    expert = experts.load_expert(env_id)
    env = gym.make(env_id)
    env.observation_space.seed(0)
    obs = np.stack([env.observation_space.sample() for _ in range(3)]).clip(-5, 5)
    before = obs.copy()
    actions = expert(obs)
    np.testing.assert_array_equal(obs, before)
    assert actions.shape == (3, *env.action_space.shape)
    assert actions.dtype == env.action_space.dtype
    assert all(action in env.action_space for action in actions)
    np.testing.assert_allclose(expert(obs[1:2]), actions[1:2], atol=1e-5)
    keys = "env_id algorithm steps seed return_mean return_std random_return command gymnasium"
    assert set(keys.split()) <= expert.metadata.keys()
    assert expert.metadata["env_id"] == env_id


def python(code, cwd):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)


def test_importing_stays_light_and_making_environments_says_nothing(tmp_path):
    code = (
        "import sys, experts, gymnasium as gym\n"
        "heavy = {'sbx', 'jax', 'stable_baselines3', 'pygame', 'tyro', 'minari', 'tensorboard'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
        "gym.make_vec('HalfCheetah-v4', 2, 'sync').reset(seed=[0, 1])\n"
    )
    done = python(code, tmp_path)
    assert done.stdout == "[]\n"
    assert done.stderr == ""
    assert not list(tmp_path.iterdir())


def test_unknown_environment_lists_what_there_is_and_how_to_bring_one():
    with pytest.raises(gym.error.Error) as error:
        experts.load_expert("MountainCar-v0")
    message = str(error.value)
    assert "MountainCar-v0" in message
    for env_id in experts.available():
        assert env_id in message
    assert "--expert module:callable" in message


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """A module of one's own: a function, a function that can be seeded, and no function."""
    code = (
        "def act(obs): return obs[:, :1]\n"
        "class Seeded:\n"
        "    def seed(self, seed): self.last = seed\n"
        "    def __call__(self, obs): return obs\n"
        "seeded = Seeded()\n"
        "number = 3\n"
    )
    (tmp_path / "mine.py").write_text(code)
    (tmp_path / "needy.py").write_text("import a_module_that_nobody_has\n")
    (tmp_path / "broken.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("mine", "needy", "broken"):
        monkeypatch.delitem(sys.modules, name, raising=False)


def test_a_callable_of_ones_own(mine):
    obs = np.arange(6.0).reshape(2, 3)
    expert = experts.load_expert("Anything-v0", "mine:act")
    assert expert(obs).tolist() == [[0.0], [3.0]]
    assert experts.load_expert("Anything-v0", "mine:seeded", seed=7).last == 7


@pytest.mark.parametrize(
    "name, reason",
    [
        ("mine:nothing", "nothing"),
        ("mine", "mine"),
        ("mine:", "mine:"),
        (":act", ":act"),
        ("nowhere:act", "nowhere"),
        ("nowhere.deeper:act", "nowhere"),
        ("mine.deeper:act", "mine"),
        ("mine:number", "mine:number"),
        (".mine:act", ".mine:act"),
    ],
)
def test_what_is_no_callable_is_refused_with_the_form(name, reason, mine):
    with pytest.raises(gym.error.Error) as error:
        experts.load_expert("Hopper-v4", name)
    message = str(error.value)
    assert f"--expert {name}" in message
    assert reason in message
    assert "module:callable" in message


@pytest.mark.parametrize(
    "name, error", [("needy:act", ModuleNotFoundError), ("broken:act", ZeroDivisionError)]
)
def test_an_error_inside_the_module_is_the_users_own(name, error, mine):
    with pytest.raises(error):
        experts.load_expert("Hopper-v4", name)


class Malice:
    """Once it is pickled, loading it makes a directory."""

    def __reduce__(self):
        return os.mkdir, ("executed",)


def test_loading_never_runs_code(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "Evil-v0.safetensors"
    path.write_bytes(pickle.dumps(Malice()))
    with pytest.raises(SafetensorError, match="header"):
        experts.NeuralExpert(path)
    assert list(tmp_path.iterdir()) == [path]


def test_gymnasiums_own_warnings_are_heard_but_not_that_there_is_a_v5():
    code = "import experts, gymnasium as gym; gym.make('Hopper-v4'); gym.logger.warn('mine')"
    options = {"capture_output": True, "text": True, "check": True, "cwd": ROOT}
    done = subprocess.run([sys.executable, "-c", code], **options)
    assert "WARN: mine" in done.stderr
    assert "out of date" not in done.stderr
