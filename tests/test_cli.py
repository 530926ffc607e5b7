"""The scripts as people run them: what they write and say, and what they refuse."""

import importlib
import json
import math
import re
import runpy
import sys
from dataclasses import fields
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import tyro
from moviepy import VideoFileClip
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests import odd_inputs

SCRIPTS = sorted(path.stem for path in odd_inputs.ROOT.glob("*.py"))
TINY = ["--num-demos=2", "--num-envs=2", "--hidden-dim=16", "--eval-episodes=3"]
ROAD = "--env-id=LaneChange-v0"
PLAIN = ["--env-id=tests.odd_inputs:Plain-v0", "--expert=tests.odd_inputs:answers"]
KEYS = "algorithm args expert_return expert_labels eval_returns return_mean return_std seconds"


@pytest.fixture(autouse=True)
def as_from_a_shell(tmp_path, monkeypatch):
    """In an empty directory, and wide enough that tyro's boxes do not break lines."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")


def run(script, *flags):
    """In this process: the new directory, and its results."""
    before = set(Path().glob("runs/*"))
    module = importlib.import_module(script)
    flags = ["--num-updates=30", *flags]
    rounds = ["--num-rounds=1", "--episodes-per-round=2"] if "dagger" in script else []
    module.main(tyro.cli(module.Args, args=[*TINY, *rounds, *flags]))
    (directory,) = set(Path().glob("runs/*")) - before
    return directory, json.loads((directory / "results.json").read_text())


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_run_saves_its_policy_and_results_and_ends_with_a_line(script, capfd):
    directory, results = run(script, ROAD)
    score = f"return {results['return_mean']:.2f} ± {results['return_std']:.2f} between episodes"
    end = f"{score}, success {results['success_rate']:.1%}; {results['seconds']:.0f} s; {directory}"
    assert capfd.readouterr() == (f"{end}\n", "")  # no progress bar where there is no terminal
    assert re.fullmatch(rf"LaneChange-v0__{script}__0__\d{{13}}", directory.name)

    is_dagger = "dagger" in script
    more = ["rounds"] * is_dagger + ["doubts"] * (script == "hg_dagger")
    assert set(results) - {"tau"} == {*KEYS.split(), "success_rate", "modes", *more}
    assert results["algorithm"] == script
    assert len(results["eval_returns"]) == 3
    assert results["return_mean"] == pytest.approx(np.mean(results["eval_returns"]))
    assert results["return_std"] == pytest.approx(np.std(results["eval_returns"]))
    assert sum(results["modes"].values()) == round(3 * results["success_rate"])
    assert script == "dart" or results["expert_return"] == pytest.approx(1)

    events = EventAccumulator(str(directory)).Reload()
    tag = "round/return_mean" if is_dagger else "eval/return"
    assert [event.step for event in events.Scalars(tag)] == ([0, 1] if is_dagger else [30])

    # The arguments and the saved policy make the same returns, bit for bit.
    module = importlib.import_module(script)
    args = module.Args(**results["args"])
    envs = module.make_envs(args, 2)
    policy = module.Policy(envs[0].observation_space, envs[0].action_space, args)
    policy.load_state_dict(load_file(directory / "policy.safetensors"))
    assert module.evaluate(args, envs, policy, 3)["eval_returns"] == results["eval_returns"]


@pytest.mark.parametrize("script", ["bc_autoregressive", "hg_dagger"])
def test_the_seed_decides_the_result(script):
    a, b, c = (run(script, *PLAIN, f"--seed={seed}")[1]["eval_returns"] for seed in (1, 1, 2))
    assert a == b
    assert len({*a, *c}) == 6


@pytest.mark.parametrize(
    "script, flags", [("bc_mse", []), ("bc_diffusion", ["--horizon=4", "--action-horizon=2"])]
)
def test_a_checkpoint_is_evaluated_with_the_same_flags(script, flags):
    trained, results = run(script, *PLAIN, *flags)
    path = trained / "policy.safetensors"
    again, repeated = run(script, *PLAIN, *flags, f"--checkpoint={path}")
    assert repeated["eval_returns"] == results["eval_returns"]
    assert set(results) - set(repeated) == {"expert_return", "expert_labels"}
    assert not (again / "policy.safetensors").exists()
    _, others = run(script, *PLAIN, *flags, f"--checkpoint={path}", "--seed=1")
    assert len({*others["eval_returns"], *results["eval_returns"]}) == 6


def test_videos_show_three_episodes_from_their_beginning_to_their_end():
    flags = ["--env-id=CartPole-v1", "--expert=tests.odd_inputs:one", "--capture-video"]
    directory, results = run("dagger", *flags)
    lengths = []
    for path in sorted(directory.glob("videos/*.mp4")):
        with VideoFileClip(str(path)) as video:
            assert video.fps == 50
            assert np.ptp(video.get_frame(0)) > 100
            lengths.append(video.reader.n_frames)
    # A point for each step. MoviePy rounds a video's length in seconds and may lose a frame.
    assert lengths == pytest.approx(np.array(results["eval_returns"]) + 0.5, abs=0.5)


def test_where_nothing_can_be_rendered_the_results_are_there(capsys):
    with pytest.raises(ValueError, match="the motor is hot"):
        run("bc_mse", "--env-id=tests.odd_inputs:Dark-v0", PLAIN[1], "--capture-video")
    assert capsys.readouterr().out.startswith("return -")
    (directory,) = Path("runs").iterdir()
    assert {"results.json", "policy.safetensors"} <= {path.name for path in directory.iterdir()}


@pytest.mark.parametrize("script", ["bc_mse", "dagger"])
def test_an_environment_and_an_expert_of_ones_own(script):
    directory, results = run(script, *PLAIN)
    assert directory.name.startswith(f"tests.odd_inputs-Plain-v0__{script}__0__")
    assert results["expert_labels"] == (2 + ("dagger" in script) * 2) * 10
    assert "success_rate" not in results  # of which it says nothing
    _, results = run(script, "--env-id=Endless-v0", PLAIN[1], "--max-episode-steps=7")
    assert results["expert_labels"] == (2 + ("dagger" in script) * 2) * 7


# --- What is refused ---


@pytest.mark.parametrize("script", SCRIPTS)
def test_numbers_that_mean_nothing_are_refused(script):
    module = importlib.import_module(script)
    numbers = [field.name for field in fields(module.Args) if field.type in (int, float)]
    numbers = [name for name in numbers if name not in ("seed", "beta", "num_rounds")]
    assert len(numbers) >= 7
    for name in [*numbers, "max_episode_steps"]:
        for value in (0, -1, math.nan, math.inf):
            with pytest.raises(ValueError, match=name):
                module.Args(**{name: value})


CONDITIONS = [("bc_diffusion", "num_inference_steps", 51), ("dagger", "beta", -0.1)]
CONDITIONS += [(script, "action_horizon", 2) for script in ("bc_diffusion", "bc_flow")]
CONDITIONS += [
    (script, "num_rounds", n) for script in ("dagger", "hg_dagger") for n in (-1, 20_000)
]


@pytest.mark.parametrize("script, name, value", CONDITIONS)
def test_numbers_that_do_not_fit_are_a_usage_error_too(script, name, value):
    with pytest.raises(ValueError, match=name):
        importlib.import_module(script).Args(**{name: value})


@pytest.mark.parametrize("flag", ["--batch-size=0", "--batch-sizes=1", "--batch-size=many"])
def test_a_wrong_flag_is_a_usage_error(flag, capsys):
    with pytest.raises(SystemExit) as exit_:
        run("bc_mse", flag)
    assert exit_.value.code == 2
    assert re.search("batch_size must be positive|--batch-size", capsys.readouterr().err)


@pytest.mark.parametrize(
    "script, env_id, message",
    [
        ("bc_mse", "Levers-v0", "a flat Box is needed"),
        ("bc_autoregressive", "Levers-v0", "they must be flat"),
        ("bc_mse", "Categories-v0", "a flat Box is needed"),
        ("bc_mse", "Rows-v0", "a flat Box is needed"),
        ("bc_mse", "Endless-v0", "give --max-episode-steps"),
    ],
)
def test_environments_from_which_nothing_can_be_learned_are_refused(script, env_id, message):
    with pytest.raises(gym.error.Error, match=message):
        run(script, f"--env-id={env_id}")
    assert not Path("runs").exists()


@pytest.mark.parametrize("flag", ["--checkpoint=", "--dataset=", "--learning-rate=1e30"])
def test_nothing_is_reported_of_what_cannot_be_right(flag):
    with pytest.raises((OSError, gym.error.Error), match=r"No such file|not found|is nan"):
        run("bc_mse", *PLAIN, flag)
    assert not list(Path().glob("runs/*/results.json"))


def test_a_return_of_nan_is_not_written(monkeypatch):
    step = (np.zeros(2), math.nan, True, False, {})
    monkeypatch.setattr(odd_inputs.Plain, "step", lambda self, action: step)
    with pytest.raises(ValueError, match="not JSON compliant"):
        run("bc_mse", *PLAIN)


@pytest.mark.parametrize("script", SCRIPTS)
def test_an_error_is_a_line_and_a_status(script, monkeypatch):
    monkeypatch.setattr(sys, "argv", [script, "--env-id=Hoper-v4"])
    with pytest.raises(SystemExit, match=r"^error: Environment `Hoper` doesn't exist.*$"):
        runpy.run_path(str(odd_inputs.ROOT / f"{script}.py"), run_name="__main__")
    assert not Path("runs").exists()


@pytest.mark.slow
def test_odd_input_ends_in_a_clear_line_or_in_the_right_result(tmp_path):
    pytest.importorskip("minari")
    rows = list(odd_inputs.table(odd_inputs.ROOT, tmp_path))
    assert len(rows) >= 40
    assert [row for row in rows if not row.kept] == []
