"""What the documents say is what was measured: their tables are those of the committed files."""

import re

import gymnasium as gym
import numpy as np
import pytest
from safetensors.torch import save_file

import bc_mog
from benchmark import report
from experts import make_envs, table


def test_readme_shows_the_committed_results():
    text = (report.ROOT / "README.md").read_text()
    marks = report.RESULTS_MARKS, report.AGGREGATE_MARKS, report.PRICES_MARKS, report.CLOSED_MARKS
    assert all(begin in text for begin, _ in marks)
    assert report.updated(text) == text


def test_interquartile_mean_leaves_a_quarter_out_at_either_end():
    scores = np.array([[100.0, 1.0, 2.0, -50.0], [0.0, 0.0, 4.0, 4.0]])
    np.testing.assert_allclose(report.interquartile_mean(scores), [1.5, 2.0])
    assert report.interquartile_mean(np.array([3.0, 9.0, 6.0])) == 6.0


def test_tasks_weigh_the_same_however_many_seeds_they_have():
    scores = report.even([np.array([0.0, 1.0]), np.array([5.0, 6.0, 7.0])])
    assert sorted(scores) == [0, 0, 0, 1, 1, 1, 5, 5, 6, 6, 7, 7] and scores.mean() == np.mean([0.5, 6.0])


@pytest.mark.parametrize("script", [*report.SCRIPTS, *report.DAGGERS])
def test_docstrings_show_the_committed_results(script):
    text = (report.ROOT / f"{script}.py").read_text()
    assert report.receipt(script) in text and report.with_receipt(script) == text


def test_experts_readme_shows_the_shipped_weights():
    text = (report.ROOT / "experts" / "README.md").read_text()
    assert table.BEGIN in text and table.updated(text) == text


def python_in_readme(word):
    """The block of Python that has the word."""
    blocks = re.findall(r"```python\n(.*?)```", (report.ROOT / "README.md").read_text(), re.DOTALL)
    (lines,) = (block for block in blocks if word in block)
    return lines


def test_the_lines_that_give_an_environment_an_id_work(tmp_path, monkeypatch):
    lines = python_in_readme("gym.register").replace('"MyEnv-v0", size=5', '"Blackjack-v1", natural=True')
    (tmp_path / "my_module.py").write_text(lines)
    monkeypatch.syspath_prepend(tmp_path)
    envs = make_envs("my_module:Flat-v0", 2, render_mode="rgb_array")
    assert envs.single_observation_space.shape == (45,) and envs.reset(seed=[0, 1])[0].shape == (2, 45)


def test_the_lines_that_load_a_policy_work(tmp_path, monkeypatch):
    monkeypatch.setattr(gym.logger, "min_level", gym.logger.ERROR)  # that Hopper-v4 has a successor
    lines = python_in_readme("load_file")
    env = gym.make("Hopper-v4")
    policy = bc_mog.Policy(bc_mog.Args(), env.observation_space, env.action_space)
    save_file(policy.state_dict(), tmp_path / "policy.safetensors")
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(lines, names)
    assert names["action"] in env.action_space
