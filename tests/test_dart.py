"""DART: what is executed, what is recorded, and where the noise comes from."""

from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest
import tyro

import dart

executed = {}  # the actions of each episode, by its seed


class Field(gym.Env):
    """Observes its seed, the step and a random number; overwrites the actions that it is given."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (3,), np.float32)
    action_space = gym.spaces.Box(np.array([-1, 2]), np.array([1, 22]), dtype=np.float32)

    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        self.executed = executed[seed] = []
        self.obs = np.array([seed, 0, self.np_random.random()], np.float32)
        return self.obs, {}

    def step(self, action):
        self.executed.append(action.copy())
        action[:] = 0
        self.obs[1:] = len(self.executed), self.np_random.random()
        return self.obs, 0.0, False, False, {}


gym.register("Field-v0", Field, max_episode_steps=200)


def expert(obs):
    return [0, 12] + obs[:, 1:2] / 1024 * [1, 10]  # exact numbers, in the middle of the range


def collect(seed=0, noise=0.06):
    """Observations (11, 200, 3), labels and what was executed, of demonstrations and held out."""
    args = dart.Args("Field-v0", num_envs=4, seed=seed, noise=noise, expert=f"{__name__}:expert")
    demos, held_out = dart.collect_demonstrations(args)
    obs, labels, _, _ = map(np.array, zip(*demos, *held_out, strict=True))
    assert obs[:, 0, 0].tolist() == [1_000_000 * seed + k for k in range(11)]
    return obs, labels, np.array([executed[seed] for seed in obs[:, 0, 0]])


def test_labels_are_clean_and_the_noise_is_a_share_of_half_of_the_range_and_clipped():
    obs, labels, actions = collect()
    np.testing.assert_array_equal(labels, [expert(each) for each in obs])
    eps = (actions - labels) / (0.06 * np.array([1, 10]))
    x, y = eps[..., 0], eps[..., 1]
    rows = np.array([x[1:, 1:], y[1:, 1:], x[:-1, 1:], x[1:, :-1]])  # other episodes, other steps
    np.testing.assert_allclose(np.einsum("ikt,jkt", rows, rows), np.eye(4) * 10 * 199, atol=200)
    assert np.mean(eps**4) == pytest.approx(3, abs=0.4)
    scaled = np.abs((collect(noise=3.0)[2] - [0, 12]) / [1, 10])
    assert scaled.max() == 1
    assert (scaled == 1).mean() == pytest.approx(0.74, abs=0.03)  # P(|N(0, 3^2)| > 1)


def test_the_noise_comes_from_the_seed_and_from_no_environment():
    first, again, other, louder = collect(3), collect(3), collect(4), collect(3, noise=0.1)
    np.testing.assert_array_equal(first[2], again[2])
    assert not np.isclose(first[2], other[2]).all(-1).any()
    np.testing.assert_array_equal(first[0], louder[0])  # the environments draw what they drew


def test_the_evaluation_is_undisturbed():
    args = dart.Args("Field-v0", noise=0.5)
    dart.evaluate(args, dart.make_envs(args, 2), SimpleNamespace(act=expert), 2)
    np.testing.assert_array_equal(executed[500_001], expert(np.arange(200)[:, None] * [0, 1, 0]))


def test_noise_that_is_not_positive_is_refused_in_a_box(capsys):
    for noise in ("0", "-0.1"):
        with pytest.raises(SystemExit, match="2"):
            tyro.cli(dart.Args, args=["--noise", noise])
        assert "noise must be positive and finite" in capsys.readouterr().err


def test_an_environment_without_an_action_range_is_refused(monkeypatch):
    monkeypatch.setattr(Field, "action_space", gym.spaces.Box(-np.inf, 1, (2,)))
    with pytest.raises(gym.error.Error, match="no action range"):
        collect()
