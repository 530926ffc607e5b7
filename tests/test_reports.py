"""What the documents say is what was measured: their tables are those of the committed files."""

import re

import gymnasium as gym
import pytest
from safetensors.torch import save_file

import bc_mog
from benchmark import report
from experts import table


def test_readme_shows_the_committed_results():
    text = (report.ROOT / "README.md").read_text()
    assert all(begin in text for begin, _ in (report.RESULTS_MARKS, report.PRICES_MARKS, report.CLOSED_MARKS))
    assert report.updated(text) == text


@pytest.mark.parametrize("script", [*report.SCRIPTS, *report.DAGGERS])
def test_docstrings_show_the_committed_results(script):
    text = (report.ROOT / f"{script}.py").read_text()
    assert report.receipt(script) in text and report.with_receipt(script) == text


def test_experts_readme_shows_the_shipped_weights():
    text = (report.ROOT / "experts" / "README.md").read_text()
    assert table.BEGIN in text and table.updated(text) == text


def test_the_lines_that_load_a_policy_work(tmp_path, monkeypatch):
    monkeypatch.setattr(gym.logger, "min_level", gym.logger.ERROR)  # that Hopper-v4 has a successor
    (lines,) = re.findall(r"```python\n(.*?load_file.*?)```", (report.ROOT / "README.md").read_text(), re.DOTALL)
    env = gym.make("Hopper-v4")
    policy = bc_mog.Policy(bc_mog.Args(), env.observation_space, env.action_space)
    save_file(policy.state_dict(), tmp_path / "policy.safetensors")
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(lines, names)
    assert names["action"] in env.action_space
