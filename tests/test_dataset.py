"""Data sets in place of an expert, and experts written as data sets; a stranger's callable, batched or not."""

import subprocess
import sys

import gymnasium as gym
import numpy as np
import pytest
import torch
import tyro

import experts
import hg_dagger
from tests.test_cli import ROOT, refusal, results_in, run

minari = pytest.importorskip("minari")
ROAD = ["--env-id", "LaneChange-v0", "--num-demos", "8", "--num-updates", "200", "--eval-episodes", "10"]


@pytest.fixture(scope="module", autouse=True)
def recorded(tmp_path_factory):
    """A data set of twelve episodes on the road, where Minari finds it."""
    flags = ["--env-id", "LaneChange-v0", "--dataset-id", "road/expert-v0", "--episodes", "12", "--seed", "7"]
    command = [sys.executable, "-m", "experts.record", *flags]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINARI_DATASETS_PATH", str(tmp_path_factory.mktemp("datasets")))
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0 and done.stdout.startswith("road/expert-v0: 12 episodes"), done.stderr
        yield


def test_what_is_recorded_is_what_the_expert_did():
    dataset = minari.load_dataset("road/expert-v0")
    episodes = list(dataset.iterate_episodes())
    assert len(episodes) == 12 and all(episode.rewards.sum() == pytest.approx(1.0) for episode in episodes)
    obs, _ = gym.make("LaneChange-v0").reset(seed=7)
    np.testing.assert_allclose(episodes[0].observations[0], obs)
    assert len({int(np.sign(episode.actions[3, 0])) for episode in episodes}) == 2  # both sides


def test_a_data_set_is_replayed_step_by_step_and_each_episode_once():
    source = experts.load_expert("LaneChange-v0", dataset="road/expert-v0")
    assert source.return_mean == pytest.approx(1.0) and 0 < source.random_return < 1
    episodes = list(minari.load_dataset("road/expert-v0").iterate_episodes())
    for first, num in ((0, 5), (5, 3)):
        steps = list(experts.rollout(None, source, num, seed=0))
        assert [int(step[0][0]) for step in steps if step[4][0]] == list(range(num))
        obs, actions = (np.concatenate([step[i] for step in steps]) for i in (1, 2))
        np.testing.assert_array_equal(obs, np.concatenate([e.observations[:-1] for e in episodes[first : first + num]]))
        np.testing.assert_array_equal(actions, np.concatenate([e.actions for e in episodes[first : first + num]]))
    with pytest.raises(ValueError, match="12 episodes, and at least 13"):
        source.replay(5)


@pytest.mark.parametrize("script", ["bc_mog", "dagger", "hg_dagger"])
def test_scripts_learn_from_a_data_set(script, tmp_path):
    extra = [] if script == "bc_mog" else ["--num-rounds", "1"]
    done = run(script, *ROAD, *extra, "--dataset", "road/expert-v0", cwd=tmp_path)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    _, results = results_in(tmp_path / "runs")
    lengths = [len(episode) for episode in minari.load_dataset("road/expert-v0").iterate_episodes()]
    first = results["rounds"][0]["expert_labels"] if extra else results["expert_labels"]
    assert first == sum(lengths[:8]) and results["expert_return"] == pytest.approx(1.0)


@pytest.mark.parametrize("script", ["bc_mse", "dagger", "hg_dagger"])
@pytest.mark.parametrize(
    "flags, expected",
    [
        (["--dataset", "road/nothing-v0"], "--dataset road/nothing-v0"),
        (["--dataset", "road/expert-v0", "--num-demos", "13"], "12 episodes"),
        (["--dataset", "road/expert-v0", "--env-id", "Hopper-v4"], "--dataset road/expert-v0 has observations"),
    ],
)
def test_a_wrong_data_set_is_answered_in_two_lines(script, flags, expected, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert expected in refusal(script, [*ROAD, *flags], tmp_path, capsys)


def test_without_minari_the_mend_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "minari", None)
    with pytest.raises(ValueError, match="pip install"):
        experts.load_expert("LaneChange-v0", dataset="road/expert-v0")


@pytest.mark.parametrize("num_envs", [1, 3, 4])
@pytest.mark.parametrize("env_id", ["Hopper-v4", "CartPole-v1"])
def test_a_callable_may_take_a_batch_or_one_observation(env_id, num_envs, tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(
        "from experts import load_expert\n"
        f"shipped = load_expert({env_id!r})\n"
        "def batch(obs): return shipped(obs)\n"
        "def single(obs):\n"
        "    assert obs.ndim == 1\n"
        "    return shipped(obs[None])[0]\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    envs = experts.make_envs(env_id, 1)
    space, obs_dim = envs.single_action_space, envs.single_observation_space.shape[0]
    obs = np.random.default_rng(0).normal(size=(num_envs, obs_dim))
    expected = experts.load_expert(env_id)(obs)
    for name in ("batch", "single"):
        expert = experts.CustomExpert(f"mine:{name}", space)
        np.testing.assert_allclose(expert(obs), expected, rtol=1e-5)
        assert expert.one_by_one == (name == "single")


class Hand:
    """In the place of a person at the keyboard, who drives all the time."""

    closed = False

    def __init__(self, env_id):
        self.envs, self.kept = experts.make_envs(env_id, 1), []

    def begin(self, run, number):
        return self

    def __call__(self, obs, proposed):
        self.kept.append((torch.as_tensor(obs[0]), torch.as_tensor(proposed[0])))
        return proposed, np.ones(1, bool)

    def corrections(self):
        return tuple(torch.stack(rows) for rows in zip(*self.kept, strict=True))


def test_a_person_and_a_data_set_need_no_expert(tmp_path, monkeypatch):
    if "Nowhere-v0" not in gym.registry:
        gym.register("Nowhere-v0", "experts.driving:DrivingEnv", kwargs={"num_obstacles": 1})
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(hg_dagger, "HumanGate", Hand)
    flags = ["--env-id", "Nowhere-v0", "--gate", "human", "--dataset", "road/expert-v0", "--num-demos", "8"]
    flags += ["--num-rounds", "1", "--num-updates", "40", "--eval-episodes", "5"]
    hg_dagger.main(tyro.cli(hg_dagger.Args, args=flags))
    _, results = results_in(tmp_path / "runs")
    first, last = (line["expert_labels"] for line in results["rounds"])
    assert last - first >= 4 and results["expert_return"] == pytest.approx(1.0)
