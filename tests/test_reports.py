"""What the documents say is what was measured: their tables are those of the committed files."""

import json
import re

import gymnasium as gym
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch.utils.tensorboard import SummaryWriter

import bc_gaussian
import bc_mog
from benchmark import chain, compounding, finetune, gaits, held_out, report, run, scores
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
    for script in [*report.SCRIPTS, *report.DAGGERS]:
        text = (report.ROOT / f"{script}.py").read_text()
        assert f"    python {script}.py --env-id Hopper-v4  # return " in text
        assert report.with_receipt(script) == text

    # One without a number waits for results of the scripts of today.
    line = "    python bc_mog.py --env-id Hopper-v4  # return "
    (tmp_path / "bc_mog.py").write_text(f"{line}not measured yet\n")
    monkeypatch.setattr(report, "ROOT", tmp_path)
    monkeypatch.setattr(run, "RESULTS", tmp_path)
    for schema, score in (({}, "not measured yet"), ({"schema": 2}, "45, std 7 over 2 seeds")):
        for seed in (4, 5):
            text = json.dumps({"return_mean": 10 * seed} | schema)
            run.path_of("Hopper-v4", "bc_mog", seed).write_text(text)
        assert report.with_receipt("bc_mog") == f"{line}{score}\n"


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


def test_interquartile_mean_over_tasks_of_the_same_weight_and_its_interval():
    values = np.array([[100.0, 1.0, 2.0, -50.0], [0.0, 0.0, 4.0, 4.0]])
    np.testing.assert_allclose(scores.interquartile_mean(values), [1.5, 2.0])
    values = scores.even([np.array([0.0, 1.0]), np.array([5.0, 6.0, 7.0])])
    assert sorted(values) == [0, 0, 0, 1, 1, 1, 5, 5, 6, 6, 7, 7]
    narrow = scores.bootstrap([np.linspace(0.9, 1.0, 5), np.linspace(0.4, 0.5, 5)])
    wide = scores.bootstrap([np.linspace(0.5, 1.4, 5), np.linspace(0.0, 0.9, 5)])
    for score, low, high in (narrow, wide):
        assert low < score < high
    assert wide[2] - wide[1] > 3 * (narrow[2] - narrow[1])


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


def test_cloning_is_compared_on_whole_demonstrations_and_on_scattered_labels(monkeypatch):
    monkeypatch.setattr(report, "results_of", lambda env_id, row, seeds: row)
    expected = [("Hopper-v4", "3", "30 --label-share 0.1"), ("Ant-v4", "40", "40")]
    for env_id, whole, scattered in expected:
        for is_scattered, num_demos in ((False, whole), (True, scattered)):
            row = report.closed_results(env_id, "dagger", True, is_scattered)
            assert row == f"dagger --num-rounds 0 --num-demos {num_demos}"
    assert report.closed_results("Hopper-v4", "dagger").startswith("dagger --num-rounds 10 ")


def test_the_slope_is_the_power_of_the_horizon_and_its_interval_follows_the_seeds():
    horizons = np.array(compounding.HORIZONS)
    results = [{"mistakes": {str(T): [1e-3 * T**power] for T in horizons}} for power in (1, 2)]
    of_seeds = compounding.mistakes_of(results)
    assert of_seeds.shape == (2, 1, len(horizons))
    for power, made in zip((1, 2), of_seeds, strict=True):
        assert compounding.slope(made[0]) == pytest.approx(power)
        np.testing.assert_allclose(compounding.slope_interval(np.stack([made, made])), power)
    np.testing.assert_allclose(compounding.slope_interval(of_seeds), [1, 2])
    of_episodes = of_seeds.swapaxes(0, 1).repeat(2, axis=0)  # two seeds that are the same
    np.testing.assert_allclose(compounding.slope_interval(of_episodes), [1, 2])


def test_a_slope_needs_four_horizons_with_mistakes_and_its_interval_needs_them_in_each_sample():
    late, earlier = (np.where(np.arange(7) < n, 0.0, 1.0) for n in (4, 3))
    made = np.stack([late, earlier])[:, None]  # some samples are all of the first seed
    assert np.isnan(compounding.slope_interval(made)).all()
    assert report.slope_of(np.zeros((2, 1, 7))) == "no mistakes"
    assert report.slope_of(made[:1]) == "too few horizons"
    assert report.slope_of(made) == "0.3"
    assert report.slope_of(made[1:]) == "0.0"  # of a single seed
    assert report.slope_of(made[1:].repeat(2, axis=0)) == "0.0 (0.0 to 0.0)"


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
    ppo = finetune.make_ppo("Hopper-v4", 0, learning_rate=1e-3, sigma=0.2)
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


def test_held_out_losses_and_returns_are_paired_by_update_and_their_ranks_compared(tmp_path):
    with SummaryWriter(tmp_path) as writer:
        for update in (500, 1000, 1500, 2000):
            writer.add_scalar("loss/held_out", update / 1000, update)
            writer.add_scalar("loss/train", -1, update)
        writer.add_scalar("eval/return", 30, 1000)
        writer.add_scalar("eval/return", 70, 2000)
    assert held_out.read_curve(tmp_path) == [[1000, 1.0, 30.0], [2000, 2.0, 70.0]]
    assert held_out.rank_correlation([0.1, -3, 7, 2], [20, 10, 90, 30]) == pytest.approx(1)
    assert held_out.rank_correlation([1, 2, 3, 4], [10, 30, 20, 40]) == pytest.approx(0.8)
