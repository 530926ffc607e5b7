"""DAgger and HG-DAgger from the command line: learning, wrong experts, and stopped runs."""

import importlib
import json
import pickle
import re
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
import tyro

from tests import walk

DAGGERS = ["dagger", "hg_dagger"]
WALK = ["--env-id", "Walk-v0", "--expert", "tests.walk:by_seed", "--num-demos", "2"]
WALK += ["--num-updates", "24", "--hidden-dim", "4", "--batch-size", "8", "--eval-episodes", "3"]
WALK += ["--num-rounds", "3", "--episodes-per-round", "3"]


class Lamps(gym.Env):
    """Ten steps, each with a point for the category 3 or 4 or 5, as the observation says."""

    metadata = {"render_modes": ["rgb_array"]}
    observation_space = gym.spaces.Box(-9, 9, (2,))
    action_space = gym.spaces.Discrete(3, start=3)

    def __init__(self, render_mode=None):
        self.render_mode = render_mode

    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self.look(), {}

    def step(self, action):
        reward = float(action == lamp(self.obs[None])[0])
        self.t += 1
        return self.look(), reward, self.t == 10, False, {}

    def look(self):
        self.obs = self.np_random.normal(size=2).astype(np.float32)
        return self.obs

    def render(self):
        return np.full((16, 16, 3), 20 * self.t, np.uint8)


def lamp(obs):
    """The expert for it."""
    return 3 + np.digitize(obs[:, 0], [-0.4, 0.4])


gym.register("Lamps-v0", Lamps, max_episode_steps=50)
LAMPS = ["--env-id", "Lamps-v0", "--expert", f"{__name__}:lamp", "--hidden-dim", "16"]


@pytest.fixture(autouse=True)
def as_if_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def main(script, *flags):
    """The script in this process."""
    module = importlib.import_module(script)
    module.main(tyro.cli(module.Args, args=list(flags)))


def only_run(folder="runs"):
    (run,) = Path(folder).iterdir()
    return run


def results_in(run):
    return json.loads((run / "results.json").read_text(), parse_constant=pytest.fail)


@pytest.mark.parametrize("script", DAGGERS)
def test_from_one_demonstration_to_a_policy(script, capfd):
    own = ["--ensemble-size", "2", "--gate-steps", "1"] if script == "hg_dagger" else []
    flags = [*LAMPS, *own, "--num-demos", "1", "--num-rounds", "2", "--num-updates", "600"]
    flags += ["--batch-size", "64", "--learning-rate", "3e-3", "--eval-episodes", "10"]
    main(script, *flags)
    run = only_run()
    results = results_in(run)
    captured = capfd.readouterr()
    assert captured.err == ""
    assert re.fullmatch(rf"return .* ± .* between episodes; \d+ s; {run}\n", captured.out)
    keys = "algorithm args expert_return expert_labels rounds eval_returns return_mean return_std"
    keys += " seconds doubts tau" if script == "hg_dagger" else " seconds"
    assert results.keys() == set(keys.split())
    assert results["expert_return"] == 10.0
    assert results["rounds"][0]["expert_labels"] == 10
    assert results["rounds"][0]["return_mean"] < 7
    assert results["return_mean"] > 9.2  # chance is 3.3
    assert 10 < results["expert_labels"] < (60 if script == "hg_dagger" else 91)
    actions = torch.load(run / "state.pt", weights_only=True)["actions"]
    assert actions.dtype == torch.int64
    assert set(actions.tolist()) == {3, 4, 5}
    events = next(run.glob("events.out.tfevents.*")).read_bytes()
    assert all(f"round/{name}".encode() in events for name in results["rounds"][0])


WRONG = {
    "NaN": (WALK, walk.by_seed, [np.nan], "finite"),
    "out of bounds": (WALK, walk.by_seed, [9.5], r"actions.* in Box\(-9"),
    "no such category": (LAMPS, lamp, 6, r"actions.* in Discrete\(3, start=3\)"),
    "a number for a category": (LAMPS, lamp, 3.0, "Cannot cast"),
    "another shape": (LAMPS, lamp, [3], r"shape \(3, 1\)"),
}


@pytest.mark.parametrize("script", DAGGERS)
@pytest.mark.parametrize("flags, expert, answer, message", WRONG.values(), ids=WRONG)
def test_wrong_labels_are_refused(script, flags, expert, answer, message, monkeypatch):
    """In round 2; with a better expert the run can go on."""
    flags = [*flags, "--num-updates", "20", "--episodes-per-round", "3", "--eval-episodes", "2"]
    flags += ["--num-rounds", "2"]
    experts = [expert, expert, lambda obs: np.array([answer] * len(obs))]
    with monkeypatch.context() as patch:
        patch.setattr(f"{script}.load_expert", lambda *_: experts.pop(0))
        with pytest.raises((gym.error.Error, TypeError), match=message):
            main(script, *flags)
    run = only_run()
    assert not (run / "results.json").exists()
    main(script, *flags, "--resume", str(run))
    assert len(results_in(run)["rounds"]) == 3


def stop(script, patch, at=None):
    """Stops a run at a call of this number, of those that make up its phases; lists their names."""
    names = []

    def counted(function):
        def call(*args, **kwargs):
            names.append(function.__name__)
            if len(names) == at:
                if function is torch_save:
                    args[1].write_bytes(b"half of it")
                raise KeyboardInterrupt
            return function(*args, **kwargs)

        return call

    torch_save = torch.save
    module = importlib.import_module(script)
    collect = "collect_round" if script == "dagger" else "play_round"
    for name in ("collect_demonstrations", collect, "train", "evaluate", "save_file"):
        patch.setattr(module, name, counted(getattr(module, name)))
    patch.setattr(module.Policy, "loss", counted(module.Policy.loss))
    patch.setattr(torch, "save", counted(torch.save))
    patch.setattr(Path, "replace", counted(Path.replace))
    return names


def numbers_in(directory):
    """The results of the one run in here that has ended, but for its time and its flags."""
    (path,) = directory.glob("*/results.json")
    results = json.loads(path.read_text())
    return {key: results[key] for key in results if key not in ("args", "seconds")}


@pytest.mark.parametrize("script", DAGGERS)
def test_a_run_that_is_stopped_at_any_moment_goes_on_to_the_same_numbers(script, monkeypatch):
    """Before each phase of each round, within its training, and with half of a state written."""
    own = ["--beta", "0.5"] if script == "dagger" else ["--ensemble-size", "2"]
    flags = [*WALK, *own, "--label-share", "0.7", "--num-updates", "8", "--run-dir"]
    with monkeypatch.context() as patch:
        names = stop(script, patch)
        main(script, *flags, "whole")
    expected = numbers_in(Path("whole"))
    num_saved = 0
    for at, name in enumerate(names, start=1):
        folder = f"stopped_{at}"
        with monkeypatch.context() as patch:
            stop(script, patch, at)
            with pytest.raises(KeyboardInterrupt):
                main(script, *flags, folder)
        states = list(Path(folder).glob("*/state.pt"))
        assert len(states) == (num_saved > 0)  # before the first, it has to be started anew
        if states:
            with monkeypatch.context() as patch:
                resumed = stop(script, patch)
                main(script, *flags, folder, "--resume", str(states[0].parent))
            assert resumed.count("train") == 4 - num_saved
            assert numbers_in(Path(folder)) == expected
        num_saved += name == "replace"
    assert num_saved == 4


def test_a_finished_run_may_be_given_more_rounds_and_videos():
    main("dagger", *WALK, "--num-rounds", "1")
    run = only_run()
    before = results_in(run)["rounds"]
    main("dagger", *WALK, "--resume", str(run), "--num-rounds", "2", "--capture-video")
    assert only_run() == run
    results = results_in(run)
    assert results["rounds"][:-1] == before
    assert len(results["rounds"]) == results["args"]["num_rounds"] + 1 == 3
    assert len(list(run.glob("videos/*.mp4"))) == 3


class Evil:
    def __reduce__(self):
        return Path("evil").touch, ()


@pytest.mark.parametrize("script", DAGGERS)
def test_resuming_runs_no_code_and_takes_no_other_policy(script):
    Path("run").mkdir()
    torch.save({"policy": Evil()}, "run/state.pt")
    with pytest.raises(pickle.UnpicklingError):
        main(script, *WALK, "--resume", "run")
    assert not Path("evil").exists()
    main(script, *WALK, "--num-rounds", "1")
    flags = [*WALK, "--resume", str(only_run())]
    with pytest.raises(gym.error.Error, match=r"flags of the run; changed: .*'hidden_dim'"):
        main(script, *flags, "--hidden-dim", "8", "--num-rounds", "2")
    with pytest.raises(gym.error.Error, match="flags of the run"):
        main(DAGGERS[script == "dagger"], *flags)
