"""What the documents say is what was measured: their tables are those of the committed files."""

import json
import re

import gymnasium as gym
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import bc_gaussian
import bc_mog
from benchmark import chain, compounding, finetune, gaits, labels, report, run, scores
from benchmark.grids import ALL, Row
from experts import table
from experts.driving import DrivingExpert


@pytest.mark.parametrize("path", report.DOCUMENTS, ids=lambda path: path.name)
def test_documents_show_the_committed_results(path):
    text = path.read_text()
    begins = re.findall(r"<!-- (.+): python -m benchmark.report -->", text)
    assert begins == re.findall(r"<!-- end of (.+) -->", text)
    assert report.updated(text) == text


def test_each_table_is_in_a_document_and_both_readmes_have_the_same_code_links_and_sections():
    text = "".join(path.read_text() for path in report.DOCUMENTS)
    assert set(re.findall("<!-- end of (.+) -->", text)) == set(report.TABLES)
    english, chinese = ((report.ROOT / f"README{x}.md").read_text() for x in ("", ".zh-CN"))
    for pattern in (r"```.*?```", r"\]\((?!README)[^)]+\)", r"^#+ "):
        found = [sorted(re.findall(pattern, text, re.S | re.M)) for text in (english, chinese)]
        assert found[0] == found[1]


def test_docstrings_show_the_committed_results(tmp_path, monkeypatch):
    for script in ALL:
        text = (report.ROOT / f"{script}.py").read_text()
        assert f"    python {script}.py --env-id Hopper-v4  # return " in text
        assert report.with_receipt(script) == text

    line = "    python bc_mog.py --env-id Hopper-v4  # return "
    (tmp_path / "bc_mog.py").write_text(f"{line}not measured yet\n")
    monkeypatch.setattr(report, "ROOT", tmp_path)
    monkeypatch.setattr(run, "RESULTS", tmp_path)
    assert report.with_receipt("bc_mog") == f"{line}not measured yet\n"
    for seed in (4, 5):
        text = json.dumps({"return_mean": 10 * seed, "schema": 2})
        run.path_of("Hopper-v4", Row("bc_mog"), seed).write_text(text)
    assert report.with_receipt("bc_mog") == f"{line}45, std 7 over 2 seeds\n"


def test_a_table_says_what_is_not_run(tmp_path, monkeypatch):
    """Without a single result: no row, or "not run", and never NaN as if it were a number."""
    for path in run.RESULTS.glob("*.json"):
        if "__" not in path.name or "__compounding" in path.name or "__finetune" in path.name:
            (tmp_path / path.name).write_text(path.read_text())
    monkeypatch.setattr(run, "RESULTS", tmp_path)
    for name, make in report.TABLES.items():
        assert not re.search(r"\bnan\b", make()), name


def test_experts_readme_shows_the_shipped_weights():
    text = (report.ROOT / "experts" / "README.md").read_text()
    assert table.BEGIN in text
    assert table.updated(text) == text


def test_a_chain_without_recovery_makes_mistakes_with_the_square_of_the_horizon():
    assert chain.exact(0.5, 3) == 0.5 + 0.75 + 0.875
    rng = np.random.default_rng(0)
    for recovers, expected in ((False, chain.exact(0.01, 50)), (True, 0.01 * 50)):
        mistakes = chain.simulate(0.01, 50, recovers, rng)
        assert mistakes.mean() == pytest.approx(expected, rel=0.05)


def test_the_normalised_scale_and_the_modes():
    for env_id in ("Hopper-v4", "LaneChange-v0"):
        assert scores.normalised(env_id, scores.expert_return(env_id)) == 1
        assert scores.normalised(env_id, scores.random_return(env_id)) == 0
    assert 0.5 < scores.random_return("LaneChange-v0") < 0.9
    assert scores.mode_entropy({"L": 5, "R": 5}, 2) == pytest.approx(1.0)
    expected = -(0.9 * np.log(0.9) + 0.1 * np.log(0.1)) / np.log(8)
    assert scores.mode_entropy({"LLL": 9, "LLR": 1}, 8) == pytest.approx(expected)
    args = bc_mog.Args(env_id="LaneChange-v0", seed=3, num_demos=20)
    lefts = [demo.info["mode"] == "L" for demo in bc_mog.collect_demonstrations(args)[0]]
    assert scores.demonstrated_share("L", "LaneChange-v0", 3, 20) == np.mean(lefts)


def python_in_documents(word):
    """The block of Python that has the word."""
    text = "".join(path.read_text() for path in report.DOCUMENTS if "zh-CN" not in path.name)
    (lines,) = (block for block in re.findall(r"```python\n(.*?)```", text, re.S) if word in block)
    return lines


def test_the_lines_that_give_an_environment_an_id_work(tmp_path, monkeypatch):
    lines = python_in_documents("gym.register")
    lines = lines.replace('"MyEnv-v0", size=5', '"Blackjack-v1", natural=True')
    (tmp_path / "my_module.py").write_text(lines)
    monkeypatch.syspath_prepend(tmp_path)
    env = gym.make("my_module:Flat-v0", render_mode="rgb_array")
    assert env.observation_space.shape == env.reset(seed=0)[0].shape == (45,)


def test_the_lines_that_load_a_policy_work(tmp_path, monkeypatch):
    (env,) = bc_mog.make_envs(bc_mog.Args(), 1)
    policy = bc_mog.Policy(env.observation_space, env.action_space, bc_mog.Args())
    save_file(policy.state_dict(), tmp_path / "policy.safetensors")
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(python_in_documents("load_file"), names)
    torch.testing.assert_close(names["policy"].state_dict(), policy.state_dict())
    assert names["actions"][0] in env.action_space


def test_a_mistake_is_an_action_far_from_the_experts_or_a_step_after_a_fall():
    wrong = np.array([0.4, 0.6, 0.1])
    made = compounding.mistakes([wrong, np.full(6, 0.4)], 6)
    assert made.tolist() == [[0, 1, 1, 2, 3, 4], [0, 0, 0, 0, 0, 0]]
    # Distances are in standard deviations, over all dimensions.
    episode = bc_mog.Episode(np.zeros((2, 4)), np.array([[3.0, 0.0], [0.0, 8.0]]), None, {})
    (found,) = compounding.distances([episode], lambda obs: np.zeros((2, 2)), np.array([1.0, 2.0]))
    np.testing.assert_allclose(found, [3 / np.sqrt(2), 4 / np.sqrt(2)])
    # In time, the mean is that of the episodes that still run.
    long = np.repeat([3.0, 5.0], compounding.BIN)
    assert compounding.by_time([np.ones(compounding.BIN), long], 60) == [2.0, 5.0, None]


def test_labels_are_counted_from_where_the_return_stays_enough():
    for means, expected in (([0.96, 0.9, 0.97], 80), ([0.9, 0.96, 0.97], 40), ([1, 1, 0.9], None)):
        found = {}
        for num_episodes, labels_of, mean in zip((1, 4, 10), (15, 40, 80), means, strict=True):
            found[num_episodes] = labels_of + np.array([-5, 5]), mean + np.array([-0.02, 0.02])
        assert labels.labels_until_enough(found) == expected


def test_falls_are_counted_by_time_among_those_that_still_run():
    results = []
    for falls in ([50, 150], [700, 999]):  # the last one errs twice at first, and in the last step
        made = {}
        for T in compounding.HORIZONS:
            made[str(T)] = [max(0, T - step) + 2 * (step == 999) for step in falls]
        errors = {"error_on_expert": [1.0] * 5 + [9.0], "error_on_own": [3.0] * 3 + [None] * 3}
        results.append({"mistakes": made} | errors)
    fallen = compounding.fallen(results)
    assert fallen.shape == (2, 2, 7)
    assert fallen.sum(axis=(0, 1)).tolist() == [0, 0, 1, 1, 2, 2, 3]
    expected = [1 / 4, 1 / 3, 0, 1 - (1 / 2) ** (1 / 5)]
    assert compounding.hazards(results) == pytest.approx(expected)
    assert compounding.early_errors(results) == [1.0, 3.0]


@pytest.mark.parametrize("name, env_id", [("reacher", "Reacher-v4"), ("swimmer", "Swimmer-v4")])
def test_an_expert_and_its_mirror_image_play_in_turn_and_mirror_each_other(name, env_id):
    pair = getattr(gaits, name)
    env, mirror = gym.make(env_id).unwrapped, gym.make(env_id).unwrapped
    env.reset(seed=0)
    mirror.reset(seed=0)
    negated = np.ones(env.model.nq)  # angles, y and, of Reacher, all but the target's x
    negated[{"Reacher-v4": [0, 1, 3], "Swimmer-v4": [1, 2, 3, 4]}[env_id]] = -1
    mirror.set_state(negated * env.data.qpos, negated * env.data.qvel)
    signs = pair.second.obs_signs
    obs, seen = env._get_obs(), mirror._get_obs()
    for _ in range(20):
        np.testing.assert_allclose(seen, signs * obs, atol=1e-4)
        obs, reward, *_ = env.step(pair.first(obs[None])[0])
        seen, other_reward, *_ = mirror.step(pair.second(seen[None])[0])
        assert other_reward == pytest.approx(reward, abs=1e-4)

    obs = np.random.default_rng(0).normal(size=(20, len(signs)))
    both = [pair.first(obs), pair.second(obs)]
    np.testing.assert_array_equal(pair(obs), [both[i % 2][i] for i in range(20)])
    assert np.abs(both[0] - both[1]).max() > 0.1


def test_the_variance_that_the_state_leaves_open_is_that_of_two_experts_in_one_state():
    """Of shares among ten neighbours, the estimate of p (1 - p) is 10 / 9 of theirs."""
    rng = np.random.default_rng(0)
    near = rng.normal(size=(50, 2))
    apart = near + np.array([0.0, 100.0])
    assert gaits.share_of_second(near, near, apart).max() == 0
    assert gaits.share_of_second(apart, near, apart).min() == 1
    assert gaits.share_of_second(near, near, near).mean() == pytest.approx(0.5, abs=0.05)
    ties = gaits.share_of_second(np.zeros((500, 2)), np.zeros((100, 2)), np.zeros((100, 2)))
    assert ties.mean() == pytest.approx(0.5, abs=0.05)
    assert ties.std() == pytest.approx(0.5 / np.sqrt(10), abs=0.03)

    actions = np.array([[1.0, 3.0]] * 50 + [[-1.0, 3.0]] * 50)  # their variance is 1
    difference = np.array([[2.0, 0.0]] * 4)
    for share, expected in ((0.5, 1.0), (0.0, 0.0), (0.1, 0.36)):
        found = gaits.alike_and_open(np.full(4, share), difference, actions)
        assert found == pytest.approx((expected * 10 / 9, expected * 10 / 9))
    noisy = DrivingExpert()
    obs = np.tile([1.0, 0.0, 0.0, 0.0], (50, 1))
    np.testing.assert_array_equal(gaits.answers(noisy, obs), gaits.answers(noisy, obs))


def test_ppo_begins_with_the_clones_actions_and_trains_only_the_critic_at_first(monkeypatch):
    for name, value in {"ROUND": 256, "EVAL_EVERY": 256, "NUM_STEPS": 1024}.items():
        monkeypatch.setattr(finetune, name, value)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    (env,) = bc_gaussian.make_envs(bc_gaussian.Args(), 1)
    clone = bc_gaussian.Policy(env.observation_space, env.action_space, bc_gaussian.Args())
    obs = torch.randn(500, 11) * torch.linspace(0.1, 9, 11) + 2
    clone.set_statistics(obs, 0.3 * torch.randn(500, 3) + 0.1)
    obs = obs.numpy()
    obs[0] = 1e6  # beyond what the clone bounds
    recipe = finetune.Recipe("", "", 4, learning_rate=1e-3, sigma=0.2)
    ppo = finetune.make_ppo("Hopper-v4", 0, recipe)
    ppo.n_epochs = 1
    finetune.start_from(ppo, clone)
    np.testing.assert_allclose(finetune.act(ppo, obs), clone.act(obs), rtol=0, atol=1e-5)
    np.testing.assert_allclose(ppo.policy.log_std.detach().exp(), 0.2, rtol=1e-5)
    actor, critic = finetune.parameters(ppo)
    found = sorted(id(parameter) for parameter in [*actor, *critic])
    assert found == sorted(id(parameter) for parameter in ppo.policy.parameters())
    seen = []

    def look():
        parts = finetune.act(ppo, obs), ppo.policy.log_std, ppo.policy.value_net.weight
        seen.append([torch.as_tensor(part).detach().clone() for part in parts])
        return 7.0

    curve = finetune.learn(ppo, 512, look)
    assert [point[:2] for point in curve] == [[steps, 7.0] for steps in range(0, 1025, 256)]
    assert curve[0][2] is None
    assert curve[-1][2] == np.mean([episode["r"] for episode in ppo.ep_info_buffer])
    assert [group["lr"] for group in ppo.policy.optimizer.param_groups] == [1e-3, 3e-4]
    actions, deviations, values = zip(*seen, strict=True)
    torch.testing.assert_close(actions[2], actions[0], rtol=0, atol=1e-6)
    assert (actions[3] - actions[2]).abs().max() > 1e-4
    assert torch.equal(deviations[2], deviations[0])
    assert not torch.equal(deviations[3], deviations[2])
    assert not torch.equal(values[1], values[0])
