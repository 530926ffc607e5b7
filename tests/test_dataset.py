"""Data sets in place of an expert, and experts written as data sets."""

import gc
import importlib
import json
import shutil
import sys
import warnings
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import tyro
from safetensors.numpy import save_file

import hg_dagger
from experts import record
from experts.driving import DrivingEnv
from tests.test_cli import (
    ALL_SCRIPTS,
    DAGGERS,
    SCRIPTS,
    TINY,
    as_if_alone,  # noqa: F401  # applies to all tests here
    main,
    results_in,
    short_refusal,
    strangers,  # noqa: F401
)

minari = pytest.importorskip("minari")
pytest.importorskip("jax")  # with which Minari records
ROAD = ["--env-id", "LaneChange-v0", *TINY]
FROM_ROAD = ["--dataset", "road/expert-v0"]

# The road under a name that has no expert.
gym.register("Unknown-v0", "experts.driving:DrivingEnv", max_episode_steps=50)


def write(*flags):
    """`python -m experts.record`, in this process; its exit status."""
    status = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # of temporary directories of Minari
        try:
            record.main(tyro.cli(record.Args, args=list(flags)))
        except SystemExit as exit_:
            status = exit_.code
        gc.collect()
    return status


@pytest.fixture(scope="module", autouse=True)
def recorded(tmp_path_factory):
    """Data sets of twelve roads and of three short episodes of CartPole, for all tests here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINARI_DATASETS_PATH", str(tmp_path_factory.mktemp("datasets")))
        flags = ["--dataset-id", "road/expert-v0", "--episodes", "12", "--seed", "7"]
        assert write("--env-id", "LaneChange-v0", *flags) == 0
        flags = ["--dataset-id", "pole-v0", "--episodes", "3", "--max-episode-steps", "30"]
        assert write("--env-id", "CartPole-v1", *flags) == 0
        yield


def must_not_be_called(*args, **kwargs):
    pytest.fail("this must not be called")


def episodes_of(dataset_id):
    return list(minari.load_dataset(dataset_id).iterate_episodes())


def refusal(flags, capsys):
    """What `experts.record` says to wrong input."""
    capsys.readouterr()
    assert write(*flags) == 2
    output, errors = capsys.readouterr()
    assert output == ""
    return errors


# --- Recording ---


def test_what_is_recorded_is_what_the_expert_did(capsys):
    flags = ["--env-id", "LaneChange-v0", "--dataset-id", "road/other-v3", "--episodes", "2"]
    assert write(*flags) == 0
    assert capsys.readouterr().out.startswith("road/other-v3: 2 episodes, ")
    assert len(episodes_of("road/other-v3")) == 2

    episodes = episodes_of("road/expert-v0")
    assert len(episodes) == 12
    for k, episode in enumerate(episodes):
        assert episode.rewards.sum() == pytest.approx(1.0)
        env = gym.make("LaneChange-v0")
        obs, _ = env.reset(seed=7 + k)
        np.testing.assert_array_equal(episode.observations[0], obs)
        for t, action in enumerate(episode.actions):
            obs, _, done, _, _ = env.step(action)
            np.testing.assert_array_equal(episode.observations[t + 1], obs)
        assert done
    sides = {int(np.sign(episode.actions[3, 0])) for episode in episodes}
    assert sides == {-1, 1}


def test_the_rounds_of_a_person_are_recorded(capsys):
    run = Path("run")
    (run / "episodes_1").mkdir(parents=True)
    args = {"env_id": "LaneChange-v0", "max_episode_steps": None}
    state = {"metadata": json.dumps({"args": args})}
    save_file({"obs": np.zeros((1, 4))}, run / "state.safetensors", state)
    flags = ["--run", "run", "--dataset-id", "person-v0"]
    assert "no episodes of a person" in refusal(flags, capsys)
    rng = np.random.default_rng(0)
    expected = []
    for number, terminated in enumerate((True, False)):  # the second was ended by the person
        episode = {
            "obs": rng.normal(size=(4, 4)).astype(np.float32),
            "actions": rng.uniform(-1, 1, size=(3, 2)).astype(np.float32),
            "rewards": rng.normal(size=3),
            "terminated": np.array([False, False, terminated]),
            "truncated": np.zeros(3, bool),
            "by_person": np.array([False, True, False]),
        }
        expected.append(episode)
        save_file(episode, run / "episodes_1" / f"{number}.safetensors")
    assert write(*flags) == 0
    assert capsys.readouterr().out == "person-v0: 2 episodes, 6 steps\n"
    for episode, given in zip(episodes_of("person-v0"), expected, strict=True):
        np.testing.assert_array_equal(episode.observations, given["obs"])
        np.testing.assert_array_equal(episode.actions, given["actions"])
        np.testing.assert_array_equal(episode.rewards, given["rewards"])
        assert episode.infos["by_person"].tolist() == [False, False, True, False]
        assert episode.terminations[-1] != episode.truncations[-1]
    module = importlib.import_module("bc_mse")
    read = module.read_dataset(module.Args(dataset="person-v0"), 2)
    np.testing.assert_array_equal(read[1].actions, expected[1]["actions"])

    (run / "state.safetensors").write_bytes(b"no such thing")
    flags[-1] = "other-v0"
    assert "--run run is not a run of hg_dagger.py" in refusal(flags, capsys)


@pytest.mark.parametrize("name", ["answers", "in_place", "as_list"])
def test_an_expert_of_ones_own_is_recorded(name, strangers):  # noqa: F811
    dataset_id = f"own/{name.replace('_', '-')}-v0"
    flags = ["--env-id", "strangers:Target-v0", "--expert", f"strangers:{name}", "--episodes", "2"]
    assert write(*flags, "--dataset-id", dataset_id) == 0
    for k, episode in enumerate(episodes_of(dataset_id)):
        env = gym.make("strangers:Target-v0")
        obs, _ = env.reset(seed=k)
        expected = [obs]
        for _ in range(10):
            obs, *_ = env.step(np.array([2.0]))
            expected.append(obs)
        np.testing.assert_array_equal(episode.observations, np.array(expected))
        answers = 1.5 + 0.5 * np.tanh(episode.observations[:-1, :1])
        np.testing.assert_allclose(episode.actions, answers, rtol=1e-5)


@pytest.mark.parametrize(
    "flags, expected",
    [
        (["--dataset-id", "road/expert-v0"], "--dataset-id road/expert-v0 exists"),
        (["--dataset-id", "road"], "--dataset-id road does not have the form"),
        (["--env-id", "Hoper-v4"], "--env-id Hoper-v4 cannot be made"),
        (["--env-id", "Blackjack-v1"], "a flat Box is needed"),
        (["--env-id", "MountainCar-v0"], "--expert module:callable"),
        (["--env-id", "strangers:Endless-v0"], "--max-episode-steps"),
        (["--env-id", "Class-v0"], "is registered with a class"),
        (["--expert", "nowhere:expert"], "--expert nowhere:expert"),
    ],
)
def test_wrong_input_is_refused_before_anything_is_played(
    flags,
    expected,
    strangers,  # noqa: F811
    monkeypatch,
    capsys,
):
    gym.register("Class-v0", DrivingEnv, max_episode_steps=10)
    monkeypatch.setattr(gym.wrappers.TimeLimit, "reset", must_not_be_called)
    errors = refusal(["--env-id", "LaneChange-v0", "--dataset-id", "new-v0", *flags], capsys)
    assert errors.startswith("error: ")
    assert expected in errors
    assert len(errors.splitlines()) <= 4
    assert "new-v0" not in minari.list_local_datasets()


@pytest.mark.parametrize("name", ["shape", "nan", "large"])
def test_actions_from_which_nothing_can_be_learned_are_not_recorded(
    name,
    strangers,  # noqa: F811
    capsys,
):
    flags = ["--env-id", "strangers:Target-v0", "--expert", f"strangers:{name}"]
    errors = refusal([*flags, "--dataset-id", "new-v0"], capsys)
    assert errors.startswith("error: ")
    assert "action" in errors
    assert len(errors.splitlines()) <= 4
    assert "new-v0" not in minari.list_local_datasets()


@pytest.mark.parametrize(
    "flags", [["--episodes", "0"], ["--seed", "-1"], ["--max-episode-steps", "0"]]
)
def test_wrong_usage_is_answered_in_a_box(flags, capsys):
    errors = refusal(["--dataset-id", "new-v0", *flags], capsys)
    assert "must be at least" in errors
    assert "--help" in errors


def test_a_directory_that_cannot_be_written(monkeypatch, capsys):
    Path("file").write_text("no directory")
    monkeypatch.setenv("MINARI_DATASETS_PATH", "file/datasets")
    assert "MINARI_DATASETS_PATH" in refusal(["--dataset-id", "new-v0"], capsys)


@pytest.mark.parametrize("module", ["minari", "jax"])
def test_recording_without_minari_names_what_is_to_be_installed(module, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, module, None)
    assert "pip install 'minari" in refusal(["--dataset-id", "new-v0"], capsys)


# --- Learning from a data set ---


@pytest.mark.parametrize("script", ALL_SCRIPTS)
def test_scripts_learn_from_a_data_set(script, monkeypatch):
    if script in SCRIPTS:  # without an expert; a DAgger needs one for its labels
        module = importlib.import_module(script)
        monkeypatch.setattr(module, "load_expert", must_not_be_called)
    main(script, *ROAD, *FROM_ROAD, *(["--num-rounds", "1"] if script in DAGGERS else []))
    _, results = results_in("runs")
    lengths = [len(episode) for episode in episodes_of("road/expert-v0")[:4]]
    num_labels = results["rounds"][0]["expert_labels"] if script in DAGGERS else None
    assert sum(lengths) == (num_labels or results["num_transitions"])
    assert results["expert_return"] == pytest.approx(1.0)


@pytest.mark.parametrize("script", DAGGERS)
def test_cloning_a_data_set_needs_no_expert(script):
    flags = ["--env-id", "Unknown-v0", *TINY, *FROM_ROAD]
    main(script, *flags, "--num-rounds", "0")
    _, results = results_in("runs")
    assert len(results["rounds"]) == 1


@pytest.mark.parametrize("script", ["bc_mog", "dagger"])
def test_demonstrations_are_the_first_episodes_of_the_data_set(script):
    module = importlib.import_module(script)
    args = module.Args(dataset="road/expert-v0")
    demonstrations = module.read_dataset(args, 5)
    assert len(demonstrations) == 5
    for demonstration, episode in zip(demonstrations, episodes_of("road/expert-v0"), strict=False):
        np.testing.assert_array_equal(demonstration.obs, episode.observations[:-1])
        np.testing.assert_array_equal(demonstration.actions, episode.actions)
        np.testing.assert_array_equal(demonstration.rewards, episode.rewards)


@pytest.mark.parametrize("script", ["bc_autoregressive", *DAGGERS])
def test_categories_from_a_data_set(script):
    flags = ["--env-id", "CartPole-v1", *TINY, "--num-demos", "2", "--dataset", "pole-v0"]
    flags += ["--max-episode-steps", "30"]
    main(script, *flags, *(["--num-rounds", "1"] if script in DAGGERS else []))
    _, results = results_in("runs")
    first = results["rounds"][0] if script in DAGGERS else results
    assert first["expert_labels"] == 60
    assert results["expert_return"] == 30.0


def spoil(dataset_id, name, change):
    """A copy of the data set of which some numbers have been changed."""
    root = minari.storage.get_dataset_path(dataset_id)
    shutil.copytree(root, root.with_name(f"{name}-v0"))
    metadata = root.with_name(f"{name}-v0") / "data" / "metadata.json"
    text = json.loads(metadata.read_text())
    text["dataset_id"] = f"road/{name}-v0"
    metadata.write_text(json.dumps(text))
    import h5py

    with h5py.File(root.with_name(f"{name}-v0") / "data" / "main_data.hdf5", "r+") as file:
        change(file)


def blind(file):
    file["episode_2/observations"][1, 0] = np.nan


def paralyse(file):
    file["episode_3/actions"][0, 0] = np.inf


def exaggerate(file):
    file["episode_4/actions"][0, 1] = 1.5


@pytest.fixture(scope="module")
def spoilt(recorded):
    for change in (blind, paralyse, exaggerate):
        spoil("road/expert-v0", change.__name__, change)


@pytest.mark.parametrize("script", ALL_SCRIPTS)
@pytest.mark.parametrize(
    "flags, expected",
    [
        (["--dataset", "road/nothing-v0"], "--dataset road/nothing-v0"),
        (["--dataset", "nothing"], "--dataset nothing"),
        (["--dataset", "road/expert-v0", "--num-demos", "13"], "12 episodes"),
        (["--dataset", "road/expert-v0", "--env-id", "Hopper-v4"], "demonstration 0"),
        (["--dataset", "pole-v0", "--num-demos", "2"], "demonstration 0"),
        (["--dataset", "road/blind-v0", "--num-demos", "6"], "demonstration 2 has observations"),
        (["--dataset", "road/paralyse-v0", "--num-demos", "6"], "demonstration 3 has actions"),
        (["--dataset", "road/exaggerate-v0", "--num-demos", "6"], "demonstration 4 has actions"),
    ],
)
def test_a_wrong_data_set_is_answered_in_a_line(script, flags, expected, spoilt, capsys):
    assert expected in short_refusal(script, [*ROAD, *flags], capsys)


@pytest.mark.parametrize("script", ["bc_mse", "dagger"])
def test_learning_without_minari_names_what_is_to_be_installed(script, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "minari", None)
    assert "pip install 'minari" in short_refusal(script, [*ROAD, *FROM_ROAD], capsys)


class Driver:
    """In the place of HumanExpert: drives in the first decision of each episode."""

    closed = False
    round_over = False

    def __init__(self, envs, env_id):
        self.kept = []

    def begin_round(self, run, number, args, metadata):
        pass

    def begin_episode(self):
        pass

    def show_training(self, fraction, num_labels):
        pass

    def watch(self, policy):
        return policy

    def close(self):
        self.closed = True

    def __call__(self, obs, proposals):
        actions = np.full((1, 2), 0.5, np.float32)
        is_first = obs[0, 0] == 45 / 40
        if is_first:
            self.kept.append((obs[0], actions[0]))
        return actions, np.array([is_first])

    def end_round(self):
        obs, actions = zip(*self.kept, strict=True)
        return np.stack(obs), np.stack(actions)


def test_a_person_and_a_data_set_need_no_expert(monkeypatch):
    monkeypatch.setattr(hg_dagger, "HumanExpert", Driver)
    monkeypatch.setattr(hg_dagger, "load_expert", must_not_be_called)
    flags = ["--env-id", "Unknown-v0", *TINY, "--gate", "human", *FROM_ROAD]
    main("hg_dagger", *flags, "--num-rounds", "1")
    _, results = results_in("runs")
    first, last = (line["expert_labels"] for line in results["rounds"])
    assert last - first == 4  # one in each of four episodes
    assert results["expert_return"] == pytest.approx(1.0)
