"""The driving environments do what they say, and their expert drives every mode evenly."""

from collections import Counter
from itertools import pairwise

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import bc_mse
import experts
from benchmark.grids import CLOSED
from experts.driving import DrivingEnv, DrivingExpert, prefers_left


def drive(env, action, **options):
    """Hold one action to the end; the return, the last info and the number of steps."""
    env.reset(seed=0, options=options)
    total = 0.0
    steps = 0
    done = False
    while not done:
        _, reward, done, _, info = env.step(np.array(action, np.float32))
        total += reward
        steps += 1
    return total, info, steps


@pytest.mark.parametrize("env_id", sorted(experts.DRIVING))
def test_gymnasium_accepts_it(env_id):
    env = gym.make(env_id, render_mode="rgb_array")
    assert env.spec.max_episode_steps == 1000
    check_env(env.unwrapped)


def test_straight_on_is_contact_and_returns_the_share_driven():
    total, info, steps = drive(DrivingEnv(), [0.0, 0.0], y=0.0, speed=10.0)
    assert info == {"is_success": False, "mode": ""}
    assert steps == 2  # 30 m - 4.5 m of contact at 10 m/s: in the third second
    assert total == pytest.approx(26.0 / 65.0, abs=0.01)  # noticed at 20 Hz, half a metre late


@pytest.mark.parametrize("side, mode", [(0.9, "L"), (-0.9, "R")])
def test_either_side_passes(side, mode):
    total, info, _ = drive(DrivingEnv(), [side, 0.0])
    assert info == {"is_success": True, "mode": mode}
    assert total == pytest.approx(1.0)


def test_a_finished_road_returns_one_wherever_it_began():
    total, info, _ = drive(DrivingEnv(disturbed=True), [0.9, 0.0], y=0.0)
    assert info["is_success"]
    assert total == pytest.approx(1.0)


def test_a_car_far_to_the_right_cannot_pass_on_the_left_from_where_disturbed_episodes_start():
    for side, is_success in [(0.9, False), (-0.9, True)]:
        _, info, _ = drive(DrivingEnv(disturbed=True), [side, 0.0], y=-4.0, lateral_velocity=0.0)
        assert info["is_success"] == is_success


def test_leaving_the_road_ends_the_episode():
    total, info, steps = drive(DrivingEnv(), [1.0, 0.0], y=5.0, lateral_velocity=3.0)
    assert not info["is_success"]
    assert steps == 1
    assert total < 0.1


def test_all_episodes_start_in_the_same_state():
    env = DrivingEnv()
    for seed in range(10):
        np.testing.assert_array_equal(env.reset(seed=seed)[0], [0.75, 0, 0, 0])  # 30 m ahead


def test_where_a_disturbed_episode_starts():
    env = DrivingEnv(disturbed=True)
    starts = np.array([env.reset(seed=seed)[0] for seed in range(300)])
    distance, y, lateral_velocity, speed = (starts * [40, 4, 3, 3]).T
    assert (distance == 25).all()
    for values, limit in [(y, 4), (lateral_velocity, 1), (speed, 2)]:
        assert 0.95 * limit < values.max() <= limit + 1e-6
        assert 0.95 * limit < -values.min() <= limit + 1e-6
    np.testing.assert_array_equal(env.reset(seed=299)[0], starts[299].astype(np.float32))


@pytest.mark.parametrize("env_id", sorted(experts.DRIVING))
def test_expert_always_succeeds_and_covers_the_modes_evenly(env_id):
    expert = experts.load_expert(env_id, seed=3)
    env = gym.make(env_id)
    modes = Counter()
    for episode in range(400):
        obs, _ = env.reset(seed=episode)
        done = False
        while not done:
            obs, _, done, _, info = env.step(expert(obs[None])[0])
        assert info["is_success"]
        modes[info["mode"]] += 1
    num_modes = 2 ** experts.DRIVING[env_id]["num_obstacles"]
    expected = 400 / num_modes
    assert len(modes) == num_modes
    assert all(abs(count - expected) < 4 * np.sqrt(expected) for count in modes.values()), modes


def states_at(distance, env_id, expert):
    """The states in which the expert acts about so far before an obstacle, and their sides."""
    envs = bc_mse.make_envs(bc_mse.Args(env_id=env_id), 50)
    episodes = bc_mse.rollout(envs, experts.load_expert(env_id, expert), 200, seed=0)
    states = np.concatenate([episode.obs for episode in episodes]) * [40, 4, 3, 3]
    actions = np.concatenate([episode.actions for episode in episodes])
    chosen = np.abs(states[:, 0] - distance) < 10
    return states[chosen], np.sign(actions[chosen, 0])


def test_the_first_action_chooses_the_side_and_the_state_does_not_tell_which():
    states, taken = states_at(30, "LaneChange-v0", None)
    assert len(states) == 200  # one in each episode
    assert (states == states[0]).all()
    assert 0.4 < np.mean(taken == 1) < 0.6
    states, taken = states_at(10, "LaneChange-v0", None)  # the second chooses nothing
    assert len(states) == 200
    np.testing.assert_array_equal(taken, np.sign(states[:, 1]))


def test_each_obstacle_of_the_slalom_is_met_like_the_first():
    states, taken = states_at(30, "Slalom-v0", None)
    assert len(states) == 3 * 200
    assert np.abs(states[:, 0] - 30).max() < 3
    assert np.abs(states[:, 1]).max() < 0.8
    for from_left in (True, False):  # the last side says nothing of the next
        assert 0.4 < np.mean(taken[(states[:, 1] > 0.1) == from_left] == 1) < 0.6


def test_the_second_action_comes_too_late_to_choose_a_side():
    """A first target of 0.8 m is what 61 lefts and 39 rights have as their mean."""
    for first, second, is_success in [(0.9, 0.9, True), (0.2, 0.2, False), (0.2, 0.9, False)]:
        env = DrivingEnv()
        env.reset(seed=0)
        for action in (first, second, second, second):
            _, _, done, _, info = env.step(np.array([action, 0.0]))
            if done:
                break
        assert info["is_success"] == is_success


def test_expert_answers_for_the_side_the_car_is_committed_to():
    expert = experts.load_expert("LaneChange-v0", seed=0)
    obs = np.array([[0.5, 0.5, 0.2, 0.0], [0.5, -0.5, -0.2, 0.0]] * 50, np.float32)
    targets = expert(obs)[:, 0]
    assert (targets[0::2] > 0.7).all()
    assert (targets[1::2] < -0.7).all()


def sides(expert, distance, num_cars=64):
    """The side that it aims for beside an obstacle that is so many metres away."""
    obs = np.zeros((num_cars, 4), np.float32)
    obs[:, 0] = np.array(distance) / 40
    return np.sign(expert(obs)[:, 0])


def test_expert_keeps_its_side_within_an_episode_and_is_seeded():
    expert = DrivingExpert(seed=5)
    first = sides(expert, 28)
    assert set(first) == {-1.0, 1.0}
    for distance in (20, 11, 3, 2.5):
        np.testing.assert_array_equal(sides(expert, distance), first)
    again = DrivingExpert(seed=5)
    np.testing.assert_array_equal(sides(again, 28), first)
    again.seed(5)
    np.testing.assert_array_equal(sides(again, 28), first)
    assert (sides(DrivingExpert(seed=6), 28) != first).any()


def test_expert_and_environment_with_the_same_seed_draw_different_numbers():
    env = DrivingEnv(disturbed=True)
    env.reset(seed=5)
    start = [env.y / 4, (env.vx - 10) / 2, env.vy]
    assert not np.isclose(start, DrivingExpert(seed=5).rng.uniform(-1, 1, 3)).any()


def test_expert_draws_a_new_side_when_an_episode_begins_although_nobody_says_so():
    expert = DrivingExpert(seed=5)
    first = sides(expert, 28)
    np.testing.assert_array_equal(sides(expert, 10), first)
    second = sides(expert, 29)  # the distance has jumped up: 64 new roads
    assert 16 < (second != first).sum() < 48
    # Only the second half begins anew.
    distance = np.where(np.arange(64) < 32, 20, 29.9)
    sides(expert, 25)
    third = sides(expert, distance)
    np.testing.assert_array_equal(third[:32], second[:32])
    assert 4 < (third[32:] != second[32:]).sum() < 28


def test_expert_draws_a_side_for_each_obstacle():
    expert = DrivingExpert(seed=5)
    first = sides(expert, 5)
    sides(expert, -4)
    second = sides(expert, 29)  # past the first obstacle, the next one is ahead
    third = sides(expert, 28)
    assert 16 < (second != first).sum() < 48
    np.testing.assert_array_equal(second, third)


def test_expert_of_one_mode():
    expert = experts.load_expert("LaneChange-v0", expert="experts.driving:prefers_left", seed=1)
    for distance in (28, 10, 29):
        assert (sides(expert, distance) == 1.0).all()


def test_expert_of_two_modes_of_unequal_mass():
    expert = experts.load_expert("LaneChange-v0", expert="experts.driving:mostly_left", seed=1)
    assert np.mean(sides(expert, 30, num_cars=2000) == 1.0) == pytest.approx(0.8, abs=0.03)


def test_how_long_an_action_is_held_changes_how_often_but_not_what():
    slow = drive(DrivingEnv(), [0.9, 0.0], y=0.0, speed=10.0)
    fast = drive(DrivingEnv(decision_seconds=0.1), [0.9, 0.0], y=0.0, speed=10.0)
    assert fast[1] == slow[1]
    assert 19 * (slow[2] - 1) <= fast[2] <= 20 * slow[2]
    assert DrivingEnv(decision_seconds=0.55).num_substeps == 11


@pytest.mark.parametrize("seconds", [0.12, 0, 0.01, -1, np.inf, np.nan])
def test_an_action_is_held_for_a_whole_number_of_physics_steps(seconds):
    with pytest.raises(ValueError, match="decision_seconds"):
        DrivingEnv(decision_seconds=seconds)


def test_the_number_of_obstacles():
    assert len(DrivingEnv(num_obstacles=5).obstacles) == 5
    with pytest.raises(ValueError, match="num_obstacles"):
        DrivingEnv(num_obstacles=0)


def test_rendering_shows_the_car_and_the_obstacle():
    env = DrivingEnv(render_mode="rgb_array")
    env.reset(seed=0)
    before = env.render()
    env.step(np.array([0.9, 0.0], np.float32))
    after = env.render()
    assert before.shape == (200, 960, 3)
    assert before.dtype == np.uint8
    assert (before != after).any()
    is_red = (before[..., 0] > 150) & (before[..., 1] < 100)
    assert is_red.any()  # the stopped car
    is_blue = (before[..., 2] > 200) & (before[..., 0] < 100)
    assert is_blue.any()  # the moving one


def test_frames_between_two_decisions_are_announced():
    env = DrivingEnv()
    frames = []
    env.on_frame = lambda: frames.append(env.x)
    env.reset(seed=0)
    env.step(np.zeros(2, np.float32))
    assert len(frames) == 1 + 40
    assert frames == sorted(frames)


def test_a_video_has_every_physics_step():
    env = gym.make("LaneChange-v0", render_mode="rgb_array_list")
    env.reset(seed=1)
    env.reset(seed=0)
    env.step(np.zeros(2, np.float32))
    frames = env.render()
    assert len(frames) == 1 + 40
    assert all(frame.shape == (200, 960, 3) for frame in frames)
    assert all((before != after).any() for before, after in pairwise(frames))
    assert env.render() == []
    assert env.metadata["render_fps"] == 20


def test_an_action_that_is_not_finite_is_refused():
    env = DrivingEnv()
    env.reset(seed=0)
    with pytest.raises(ValueError, match="finite"):
        env.step(np.array([np.nan, 0.0]))


def test_the_drivers_noise_alone_opens_the_gate_of_the_benchmark_in_a_few_percent_of_steps():
    rows, _ = CLOSED["LaneChangeDisturbed-v0"]
    gated = next(row for row in rows if row.script == "hg_dagger")
    assert "--gate-steps 1 " in gated.flags
    threshold = float(gated.flags.split("--gate-threshold ")[1].split()[0])

    envs = bc_mse.make_envs(bc_mse.Args(env_id="LaneChange-v0"), 10)
    demos = bc_mse.rollout(envs, prefers_left, 200, seed=0)
    std = np.concatenate([demo.actions for demo in demos]).std(axis=0)
    draws = prefers_left(np.tile(np.float32([0.5, 0, 0, 0]), (10_000, 1)))
    distance = np.sqrt(np.square((draws - draws.mean(axis=0)) / std).mean(axis=1))
    assert np.mean(distance > threshold) == pytest.approx(0.034, abs=0.01)  # P(|z| > 1.5 √2)
