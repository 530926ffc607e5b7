"""Data sets in place of an expert, and experts written as data sets."""

import importlib
import json
import runpy
import sys
import traceback
from pathlib import Path
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest

import bc_mse
import dagger
from experts import load_expert, record
from experts.human import EpisodeRecorder
from tests.walk import by_seed, length

minari = pytest.importorskip("minari")
TINY = {"num_envs": 4, "hidden_dim": 16, "num_updates": 20, "eval_episodes": 2}
ROAD = {"env_id": "LaneChange-v0", "dataset": "road/expert-v0"}

# An environment that returns the same array each time and halves its action; Minari wants its name.
gym.register("Stroll-v0", "tests.walk:Walk", max_episode_steps=100)
gym.register("EndlessWalk-v0", "tests.walk:Walk")


def write(**flags):
    record.main(record.Args(**flags))


@pytest.fixture(scope="module", autouse=True)
def recorded(tmp_path_factory):
    """Data sets of twelve roads and of three short episodes of CartPole, for all tests here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINARI_DATASETS_PATH", str(tmp_path_factory.mktemp("datasets")))
        patch.setitem(sys.modules, "jax", None)  # is no requirement
        write(env_id="LaneChange-v0", dataset_id="road/expert-v0", episodes=12, seed=7)
        write(env_id="CartPole-v1", dataset_id="pole-v0", episodes=3, max_episode_steps=30)
        yield


def episodes_of(dataset_id):
    return list(minari.load_dataset(dataset_id).iterate_episodes())


def run(script, run_dir, **flags):
    """The results of a small run of the script."""
    script.main(script.Args(run_dir=str(run_dir), **TINY | flags))
    (path,) = Path(run_dir).glob("*/results.json")
    return json.loads(path.read_text())


# --- Recording ---


def test_what_is_recorded_is_what_the_expert_did():
    episodes = episodes_of("road/expert-v0")
    assert len(episodes) == 12
    env, expert = gym.make("LaneChange-v0"), load_expert("LaneChange-v0", seed=7)
    for k, episode in enumerate(episodes):
        assert episode.rewards.sum() == pytest.approx(1.0)
        obs, _ = env.reset(seed=7 + k)
        np.testing.assert_array_equal(episode.observations[0], obs)
        for t, action in enumerate(episode.actions):
            np.testing.assert_array_equal(action, expert(obs[None])[0])
            obs, reward, done, _, _ = env.step(action)
            np.testing.assert_array_equal(episode.observations[t + 1], obs)
            assert episode.rewards[t] == reward
            assert episode.terminations[t] == done
            assert not episode.truncations[t]
        assert done


def test_a_careless_environment_and_one_without_an_end(capsys):
    flags = {"expert": "tests.walk:by_seed", "episodes": 4, "seed": 3}
    write(env_id="Stroll-v0", dataset_id="own/stroll-v0", **flags)
    with pytest.raises(gym.error.Error, match="--max-episode-steps"):
        write(env_id="EndlessWalk-v0", dataset_id="own/walk-v0", **flags)
    write(env_id="EndlessWalk-v0", dataset_id="own/walk-v0", max_episode_steps=2, **flags)
    assert capsys.readouterr().out.splitlines() == [
        "own/stroll-v0: 4 episodes, 10 steps",
        "own/walk-v0: 4 episodes, 7 steps",
    ]
    for name, limit in (("own/stroll-v0", 4), ("own/walk-v0", 2)):
        for seed, episode in enumerate(episodes_of(name), start=3):
            num_steps = min(limit, length(seed))
            is_cut = length(seed) > limit
            obs, actions = episode.observations, episode.actions
            assert obs[:, 0].tolist() == [seed] * (num_steps + 1)
            assert obs[:, 1].tolist() == list(range(num_steps + 1))
            np.testing.assert_array_equal(obs[1:, 2], actions[:, 0])
            np.testing.assert_array_equal(actions, by_seed(obs[:-1]))
            np.testing.assert_array_equal(episode.rewards, actions[:, 0])
            ends = [episode.terminations, episode.truncations]
            expected = [[False] * (num_steps - 1) + [is_end] for is_end in (not is_cut, is_cut)]
            assert [end.tolist() for end in ends] == expected


def test_a_disturbed_expert_is_recorded_with_what_it_meant():
    flags = {"expert": "tests.walk:by_seed", "episodes": 400, "seed": 3, "noise": 0.1}
    write(env_id="Stroll-v0", dataset_id="own/noisy-v0", **flags)
    eps = []
    for episode in episodes_of("own/noisy-v0"):
        meant = by_seed(episode.observations[:-1])
        np.testing.assert_array_equal(episode.actions, meant)
        eps.extend((episode.observations[1:, 2] - meant[:, 0]) / 0.9)  # 0.1 of half of [-9, 9]
    assert np.mean(eps) == pytest.approx(0, abs=0.1)
    assert np.std(eps) == pytest.approx(1, abs=0.07)
    with pytest.raises(gym.error.Error, match="no action range"):
        write(env_id="CartPole-v1", dataset_id="own/pole-v0", noise=0.1)


def test_the_rounds_of_a_person_are_recorded_in_their_order(tmp_path):
    flags = {"run": str(tmp_path), "dataset_id": "person-v0"}
    with pytest.raises(gym.error.Error, match="no episodes"):
        write(env_id="LaneChange-v0", **flags)
    env = EpisodeRecorder(gym.make("LaneChange-v0"))
    expected = []
    for number, num_steps in ((2, 3), (10, 50)):  # the person breaks off those of round 2
        for k in range(2):
            env.reset(seed=10 * number + k)
            env.directory = tmp_path / f"episodes_{number}"
            actions, done = [], False
            while not done and len(actions) < num_steps:
                env.by_person = len(actions) == 1
                actions.append(np.array([0.9, 0.1 * k], np.float32))
                *_, done, _, _ = env.step(actions[-1].copy())
            expected.append((10 * number + k, done, actions))
        env.write()

    with pytest.raises(gym.error.Error, match="not those of Hopper-v4"):
        write(**flags)
    write(env_id="LaneChange-v0", **flags)
    episodes = episodes_of("person-v0")
    for episode, (seed, done, actions) in zip(episodes, expected, strict=True):
        np.testing.assert_array_equal(episode.observations[0], env.reset(seed=seed)[0])
        assert len(episode.observations) == len(actions) + 1
        np.testing.assert_array_equal(episode.actions, actions)
        by_person = [False, False, True] + [False] * (len(actions) - 2)
        assert episode.infos["by_person"].tolist() == by_person
        assert (episode.terminations[-1], episode.truncations[-1]) == (done, not done)
        assert not episode.truncations[:-1].any()
    assert sum(done for _, done, _ in expected) == 2


@pytest.mark.parametrize("action", [[9.5], [np.nan], [2.0, 2.0]])
def test_actions_that_are_none_of_the_environments_are_not_recorded(action, monkeypatch):
    monkeypatch.setattr(record, "load_expert", lambda *args: lambda obs: [action])
    with pytest.raises(gym.error.Error, match="is not in Box"):
        write(env_id="Stroll-v0", dataset_id="new-v0")
    assert "new-v0" not in minari.list_local_datasets()


def test_an_error_is_a_line_and_a_status(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["record", "--env-id", "MountainCar-v0"])
    with pytest.raises(SystemExit, match="error: no expert for"):
        runpy.run_path(record.__file__, run_name="__main__")


# --- Learning from a data set ---


def test_cloning_learns_from_the_first_episodes_and_holds_out_the_next(tmp_path, monkeypatch):
    monkeypatch.setattr(bc_mse, "load_expert", pytest.fail)
    learned, held_out = bc_mse.collect_demonstrations(bc_mse.Args(num_demos=4, **ROAD))
    recorded = episodes_of("road/expert-v0")[:5]
    assert (len(learned), len(held_out)) == (4, 1)
    for demo, episode in zip(learned + held_out, recorded, strict=True):
        np.testing.assert_array_equal(demo.obs, episode.observations[:-1])
        np.testing.assert_array_equal(demo.actions, episode.actions)
        np.testing.assert_array_equal(demo.rewards, episode.rewards)
    results = run(bc_mse, tmp_path, num_demos=4, **ROAD)
    assert results["expert_labels"] == sum(map(len, recorded[:4]))
    assert results["expert_return"] == pytest.approx(1.0)


def test_dagger_begins_with_the_data_set_and_asks_the_expert_for_labels(tmp_path, monkeypatch):
    results = run(dagger, tmp_path / "rounds", num_demos=4, num_rounds=1, **ROAD)
    first, last = (line["expert_labels"] for line in results["rounds"])
    assert first == sum(map(len, episodes_of("road/expert-v0")[:4]))
    assert last > first
    assert results["expert_return"] == pytest.approx(1.0)
    monkeypatch.setattr(dagger, "load_expert", pytest.fail)
    results = run(dagger, tmp_path / "cloning", num_demos=4, num_rounds=0, **ROAD)
    assert results["expert_labels"] == first


@pytest.mark.parametrize("script", ["bc_autoregressive", "dagger"])
def test_categories_from_a_data_set(script, tmp_path):
    flags = {"num_rounds": 0} if script == "dagger" else {}
    flags |= {"env_id": "CartPole-v1", "dataset": "pole-v0", "num_demos": 2}
    results = run(importlib.import_module(script), tmp_path, **flags)
    assert results["expert_labels"] == 60
    assert results["expert_return"] == 30.0


@pytest.mark.parametrize("script, num_demos", [(bc_mse, 1), (dagger, 2)])
@pytest.mark.parametrize(
    "obs, actions, reason",
    [
        (np.zeros((3, 4)), np.zeros((3, 2)), "2 observations have actions of shape"),
        (np.zeros((4, 4)), np.zeros((3, 1)), "3 observations have actions of shape"),
        (np.zeros((4, 4)), np.full((3, 2), 1.5), "actions in Box"),
        (np.zeros((4, 4)), np.full((3, 2), np.inf), "finite"),
        (np.full((4, 4), np.nan), np.zeros((3, 2)), "finite"),
    ],
    ids=["too few observations", "too few dimensions", "too large", "infinite", "NaN"],
)
def test_a_wrong_episode_is_refused(script, num_demos, obs, actions, reason, monkeypatch):
    """It is the second: the last that DAgger reads, and the one that cloning holds out."""
    episode = SimpleNamespace(observations=obs, actions=actions, rewards=np.ones(3))
    two = [*episodes_of("road/expert-v0")[:1], episode]
    dataset = SimpleNamespace(
        env_spec=None, iterate_episodes=lambda numbers: [two[i] for i in numbers]
    )
    monkeypatch.setattr(minari, "load_dataset", lambda name: dataset)
    with pytest.raises(gym.error.Error, match=reason):
        script.collect_demonstrations(script.Args(num_demos=num_demos, **ROAD))


@pytest.mark.parametrize("script", [bc_mse, dagger])
def test_a_data_set_of_another_environment_is_taken_with_a_warning(script, monkeypatch):
    said = []
    monkeypatch.setattr(gym.logger, "warn", said.append)
    script.collect_demonstrations(script.Args(num_demos=2, **ROAD))
    assert said == []
    script.collect_demonstrations(
        script.Args(num_demos=2, **ROAD | {"env_id": "LaneChangeDisturbed-v0"})
    )
    assert said == ["road/expert-v0 was recorded in LaneChange-v0"]


@pytest.mark.parametrize("script, num_demos", [(bc_mse, 11), (dagger, 13)])
def test_too_few_episodes_are_an_error(script, num_demos):
    script.collect_demonstrations(script.Args(num_demos=num_demos - 1, **ROAD))
    with pytest.raises(KeyError, match="episode_12"):
        script.collect_demonstrations(script.Args(num_demos=num_demos, **ROAD))


@pytest.mark.parametrize("script", [bc_mse, dagger, record])
def test_without_minari_the_error_shows_what_is_to_be_installed(script, monkeypatch):
    monkeypatch.setitem(sys.modules, "minari", None)
    args = record.Args() if script is record else script.Args(**ROAD)
    with pytest.raises(ModuleNotFoundError, match="minari") as error:
        script.main(args)
    assert "pip install 'minari[hdf5]'" in "".join(traceback.format_exception(error.value))
