"""The driving environments do what their docstring says, and their expert drives every mode evenly."""

from collections import Counter

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import experts
from experts.driving import DrivingEnv


def drive(env, action, **options):
    """Hold one action to the end; the return, the last info and the number of steps."""
    env.reset(seed=0, options=options)
    total, steps, done, info = 0.0, 0, False, {}
    while not done:
        _, reward, done, _, info = env.step(np.array(action, np.float32))
        total, steps = total + reward, steps + 1
    return total, info, steps


@pytest.mark.parametrize("env_id", sorted(experts.DRIVING))
def test_gymnasium_accepts_it(env_id):
    check_env(gym.make(env_id, render_mode="rgb_array").unwrapped)


def test_straight_on_is_contact_and_returns_the_share_driven():
    total, info, steps = drive(DrivingEnv(), [0.0, 0.0], y=0.0, speed=10.0)
    assert info == {"is_success": False, "mode": "", "num_modes": 2}
    assert steps == 5  # 45 m - 4.5 m of contact at 10 m/s: in the fifth second
    assert total == pytest.approx(41.0 / 60.0, abs=0.01)  # noticed at 20 Hz, within half a metre of 40.5 m


@pytest.mark.parametrize("side, mode", [(0.9, "L"), (-0.9, "R")])
def test_either_side_passes(side, mode):
    total, info, _ = drive(DrivingEnv(), [side, 0.0])
    assert info == {"is_success": True, "mode": mode, "num_modes": 2}
    assert total == pytest.approx(1.0)


def test_leaving_the_road_ends_the_episode():
    _, info, _ = drive(DrivingEnv(), [1.0, 0.0], y=5.0, lateral_velocity=3.0)
    assert not info["is_success"]


@pytest.mark.parametrize(
    "env_id, num_obstacles", [(key, kwargs["num_obstacles"]) for key, kwargs in experts.DRIVING.items()]
)
def test_expert_always_succeeds_and_covers_the_modes_evenly(env_id, num_obstacles):
    expert, env, modes = experts.load_expert(env_id, seed=3), gym.make(env_id), Counter()
    for episode in range(400):
        obs, _ = env.reset(seed=episode)
        expert.reset(np.ones(1, bool))
        done = False
        while not done:
            obs, _, done, _, info = env.step(expert(obs[None])[0])
        assert info["is_success"]
        modes[info["mode"]] += 1
    expected = 400 / 2**num_obstacles
    assert len(modes) == 2**num_obstacles
    assert all(abs(count - expected) < 4 * np.sqrt(expected) for count in modes.values()), modes


def test_expert_answers_for_the_side_the_car_is_committed_to():
    expert = experts.load_expert("LaneChange-v0", seed=0)
    obs = np.array([[0.5, 0.5, 0.2, 0.0], [0.5, -0.5, -0.2, 0.0]] * 50, np.float32)
    targets = expert(obs)[:, 0]
    assert (targets[0::2] > 0.7).all() and (targets[1::2] < -0.7).all()


def test_expert_keeps_its_side_within_an_episode_and_is_seeded():
    obs = np.tile(np.array([[0.7, 0.0, 0.0, 0.0]], np.float32), (64, 1))
    nearer = obs - np.array([0.1, 0, 0, 0], np.float32)
    first, again = (experts.load_expert("LaneChange-v0", seed=5) for _ in range(2))
    sides = np.sign(first(obs)[:, 0])
    assert set(sides) == {-1.0, 1.0}
    assert (np.sign(first(nearer)[:, 0]) == sides).all()
    assert (np.sign(again(obs)[:, 0]) == sides).all()


def test_decision_rate_changes_how_often_but_not_what():
    slow, fast = (drive(DrivingEnv(decision_hz=hz), [0.9, 0.0], y=0.0, speed=10.0) for hz in (1, 10))
    assert fast[1] == slow[1] and 9 * slow[2] < fast[2] <= 10 * slow[2]
    with pytest.raises(ValueError, match="decision_hz"):
        DrivingEnv(decision_hz=7)


def test_rendering_shows_the_car_and_the_obstacle():
    env = DrivingEnv(render_mode="rgb_array")
    env.reset(seed=0)
    before = env.render()
    env.step(np.array([0.9, 0.0], np.float32))
    after = env.render()
    assert before.shape == (200, 960, 3) and before.dtype == np.uint8
    assert (before != after).any()
    is_red = (before[..., 0] > 150) & (before[..., 1] < 100)
    assert is_red.any()  # the stopped car


def test_an_action_that_is_not_finite_is_refused():
    env = DrivingEnv()
    env.reset(seed=0)
    with pytest.raises(ValueError, match="finite"):
        env.step(np.array([np.nan, 0.0]))
