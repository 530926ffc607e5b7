"""The shipped experts: their files, their returns, and how they are loaded."""

import os
import pickle
import subprocess
import sys

import gymnasium as gym
import numpy as np
import pytest

import experts

gym.logger.min_level = gym.logger.ERROR  # that a -v4 id has a successor is no news here
SHIPPED = sorted(path.stem for path in experts.WEIGHTS.glob("*.safetensors"))
LOCOMOTION = {"Hopper": 3500, "Walker2d": 5500, "HalfCheetah": 11_000, "Ant": 5500, "Humanoid": 6200}
FLOORS = {f"{name}-{version}": floor for name, floor in LOCOMOTION.items() for version in ("v4", "v5")} | {
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


def test_hopper_is_among_them():
    assert "Hopper-v4" in SHIPPED


@pytest.mark.parametrize("env_id", SHIPPED)
def test_expert_reaches_its_recorded_return(env_id):
    expert = experts.load_expert(env_id)
    recorded = float(expert.metadata["return_mean"])
    span = recorded - float(expert.metadata["random_return"])
    returns = experts.play(expert, env_id, 10, seed=50_000)
    assert returns.mean() > recorded - 0.05 * span
    assert recorded >= FLOORS[env_id]
    if env_id.split("-")[0] in LOCOMOTION:  # that is, it does not fall
        assert float(expert.metadata["return_std"]) <= (0.1 if "Humanoid" in env_id else 0.05) * recorded


@pytest.mark.parametrize("env_id", SHIPPED)
def test_expert_is_a_batched_callable_that_says_what_made_it(env_id):
    expert, env = experts.load_expert(env_id), gym.make(env_id)
    obs = np.stack([env.observation_space.sample() for _ in range(3)]).clip(-5, 5)
    actions = expert(obs)
    assert actions.shape == (3, *env.action_space.shape) and all(action in env.action_space for action in actions)
    np.testing.assert_allclose(expert(obs[1:2]), actions[1:2], atol=1e-5)
    keys = {
        "env_id",
        "algorithm",
        "steps",
        "seed",
        "return_mean",
        "return_std",
        "random_return",
        "command",
        "gymnasium",
    }
    assert keys <= expert.metadata.keys() and expert.metadata["env_id"] == env_id


def test_making_environments_says_nothing_and_leaves_nothing(tmp_path):
    code = "from experts import make_envs; make_envs('HalfCheetah-v4', 2).reset(seed=[0, 1])"
    environment = os.environ | {"PYTHONPATH": str(experts.WEIGHTS.parent.parent)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == done.stderr == "" and not list(tmp_path.iterdir())


@pytest.mark.parametrize("env_id", [env_id for env_id in SHIPPED if env_id.split("-")[0] in {*LOCOMOTION, "Swimmer"}])
def test_the_camera_follows_who_walks(env_id):
    env = experts.make_envs(env_id, 1, render_mode="rgb_array").envs[0].unwrapped
    assert env.mujoco_renderer.camera_id == env.model.camera("track").id


def test_unknown_environment_lists_what_there_is_and_how_to_bring_one():
    with pytest.raises(ValueError, match=r"(?s)MountainCar-v0.*Hopper-v4.*LaneChange-v0.*--expert module:callable"):
        experts.load_expert("MountainCar-v0")


def test_loading_never_runs_code(tmp_path):
    class Malice:
        def __reduce__(self):
            return print, ("executed",)

    path = tmp_path / "Evil-v0.safetensors"
    path.write_bytes(pickle.dumps(Malice()))
    with pytest.raises(Exception, match="header"):
        experts.NeuralExpert(path)


def test_importing_experts_stays_light():
    code = (
        "import sys, experts; print(sorted({'sbx', 'jax', 'stable_baselines3', 'pygame', 'tyro'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=experts.WEIGHTS.parent.parent, capture_output=True, text=True
    )
    assert done.stdout.strip() == "[]", done.stderr
