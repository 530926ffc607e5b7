"""What the documents say is what was measured: their tables are those of the committed files."""

import json
import re
from dataclasses import asdict

import gymnasium as gym
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch.utils.tensorboard import SummaryWriter

import bc_gaussian
import bc_mog
from benchmark import chain, compounding, finetune, gaits, held_out, report, scores
from experts import table
from experts.driving import DrivingExpert


@pytest.mark.parametrize("path", report.READMES, ids=lambda path: path.name)
def test_readme_shows_the_committed_results(path):
    text = path.read_text()
    for name in report.TABLES:
        assert f"<!-- {name}: " in text
        assert f"<!-- end of {name} -->" in text
    assert report.updated(text) == text


def test_both_readmes_have_the_same_code_links_and_sections():
    english, chinese = (path.read_text() for path in report.READMES)
    for pattern in (r"```.*?```", r"\]\((?!README)[^)]+\)", r"^#+ "):
        found = [sorted(re.findall(pattern, text, re.S | re.M)) for text in (english, chinese)]
        assert found[0] == found[1]


@pytest.mark.parametrize("script", [*report.SCRIPTS, *report.DAGGERS])
def test_docstrings_show_the_committed_results(script):
    text = (report.ROOT / f"{script}.py").read_text()
    assert report.receipt(script) in text
    assert report.with_receipt(script) == text


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
    text = " ".join((report.ROOT / "README.md").read_text().split())
    numbers = [chain.exact(0.001, horizon) for horizon in (10, 100, 1000)]
    says = "{:.3f} mistakes in 10 steps, {:.1f} in 100 and {:.0f} in 1,000"
    assert says.format(*numbers) in text


def test_interquartile_mean_leaves_a_quarter_out_at_either_end():
    values = np.array([[100.0, 1.0, 2.0, -50.0], [0.0, 0.0, 4.0, 4.0]])
    np.testing.assert_allclose(scores.interquartile_mean(values), [1.5, 2.0])
    assert scores.interquartile_mean(np.array([3.0, 9.0, 6.0])) == 6.0


def test_tasks_weigh_the_same_however_many_seeds_they_have():
    values = scores.even([np.array([0.0, 1.0]), np.array([5.0, 6.0, 7.0])])
    assert sorted(values) == [0, 0, 0, 1, 1, 1, 5, 5, 6, 6, 7, 7]
    assert values.mean() == np.mean([0.5, 6.0])


def test_the_interval_of_the_bootstrap_holds_the_score_and_grows_with_the_spread():
    narrow = scores.bootstrap([np.linspace(0.9, 1.0, 5), np.linspace(0.4, 0.5, 5)])
    wide = scores.bootstrap([np.linspace(0.5, 1.4, 5), np.linspace(0.0, 0.9, 5)])
    for score, low, high in (narrow, wide):
        assert low < score < high
    assert wide[2] - wide[1] > 3 * (narrow[2] - narrow[1])


def test_entropy_of_modes():
    assert scores.mode_entropy({"L": 5, "R": 5}, 2) == pytest.approx(1.0)
    assert scores.mode_entropy({"L": 5}, 2) == pytest.approx(0.0)
    expected = -(0.9 * np.log(0.9) + 0.1 * np.log(0.1)) / np.log(8)
    assert scores.mode_entropy({"LLL": 9, "LLR": 1}, 8) == pytest.approx(expected)


def test_the_normalised_scale():
    for env_id in ("Hopper-v4", "LaneChange-v0"):
        assert scores.normalised(env_id, scores.expert_return(env_id)) == 1
        assert scores.normalised(env_id, scores.random_return(env_id)) == 0
    assert 0.5 < scores.random_return("LaneChange-v0") < 0.9


def test_the_demonstrated_share_is_that_of_a_run_with_this_seed():
    args = bc_mog.Args(env_id="LaneChange-v0", seed=3, num_demos=20)
    demos = bc_mog.collect_demonstrations(args, 22)
    lefts = [demo.info["mode"] == "L" for demo in demos[:20]]
    assert scores.demonstrated_share("L", "LaneChange-v0", 3, 20) == np.mean(lefts)


def python_in_readme(word):
    """The block of Python that has the word."""
    text = (report.ROOT / "README.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    (lines,) = (block for block in blocks if word in block)
    return lines


def test_the_lines_that_give_an_environment_an_id_work(tmp_path, monkeypatch):
    lines = python_in_readme("gym.register")
    lines = lines.replace('"MyEnv-v0", size=5', '"Blackjack-v1", natural=True')
    (tmp_path / "my_module.py").write_text(lines)
    monkeypatch.syspath_prepend(tmp_path)
    envs = gym.make_vec("my_module:Flat-v0", 2, "sync", render_mode="rgb_array")
    assert envs.single_observation_space.shape == (45,)
    assert envs.reset(seed=[0, 1])[0].shape == (2, 45)


def test_the_lines_that_load_a_policy_work(tmp_path, monkeypatch):
    args = bc_mog.Args(hidden_dim=32, num_components=3, min_std=0.7)
    policy = bc_mog.make_policy(args, bc_mog.make_envs(args, 1))
    metadata = {"metadata": json.dumps({"args": asdict(args)})}
    save_file(policy.state_dict(), tmp_path / "policy.safetensors", metadata)
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(python_in_readme("load_file"), names)
    assert names["policy"].min_std == 0.7
    assert names["actions"] in names["envs"].action_space


def test_a_mistake_is_an_action_far_from_the_experts_or_a_step_after_a_fall():
    wrong = np.array([0.4, 0.6, 0.1])
    made = compounding.mistakes([wrong, np.full(6, 0.4)], 6)
    assert made.tolist() == [[0, 1, 1, 2, 3, 4], [0, 0, 0, 0, 0, 0]]


def test_distances_are_in_standard_deviations_over_all_dimensions():
    actions = np.array([[3.0, 0.0], [0.0, 8.0]])
    episode = bc_mog.Episode(np.zeros((2, 4)), actions, None, {})
    (found,) = compounding.distances([episode], lambda obs: np.zeros((2, 2)), np.array([1.0, 2.0]))
    np.testing.assert_allclose(found, [3 / np.sqrt(2), 4 / np.sqrt(2)])


def test_the_error_by_time_is_that_of_the_episodes_that_still_run():
    n = compounding.BIN
    short = np.ones(n)
    long = np.concatenate([np.full(n, 3.0), np.full(n, 5.0)])
    assert compounding.by_time([short, long], 3 * n) == [2.0, 5.0, None]


def test_cloning_is_compared_on_whole_demonstrations_and_on_scattered_labels():
    for env_id, whole, scattered in (
        ("Hopper-v4", (3, 1), (30, 10)),
        ("Walker2d-v4", (4, 1), (20, 5)),
        ("Ant-v4", (40, 1), (40, 1)),
    ):
        for is_scattered, expected in ((False, whole), (True, scattered)):
            results = report.closed_results(env_id, "dagger", True, is_scattered)
            found = {(r["args"]["num_demos"], r["args"]["label_every"]) for r in results}
            assert found == {expected}
    rounds = report.closed_results("Hopper-v4", "dagger")
    assert {len(result["rounds"]) for result in rounds} == {11}


def test_the_slope_is_the_power_of_the_horizon_and_its_interval_follows_the_seeds():
    horizons = np.array(compounding.HORIZONS)
    for power in (1, 2):
        assert compounding.slope(1e-3 * horizons**power) == pytest.approx(power)
        same = np.broadcast_to(1e-3 * horizons**power, (3, 4, len(horizons)))
        np.testing.assert_allclose(compounding.slope_interval(same), power)
        assert np.isnan(compounding.slope_interval(same[:1])).all()
    assert np.isnan(compounding.slope(np.zeros(len(horizons))))
    assert np.isnan(compounding.slope_interval(np.zeros((2, 3, len(horizons))))).all()
    of_seeds = np.stack([1e-3 * horizons, 1e-3 * horizons**2.0])[:, None]
    np.testing.assert_allclose(compounding.slope_interval(of_seeds), [1, 2])
    of_episodes = of_seeds.swapaxes(0, 1).repeat(2, axis=0)  # two seeds that are the same
    np.testing.assert_allclose(compounding.slope_interval(of_episodes), [1, 2])


def test_a_slope_needs_four_horizons_with_mistakes_and_its_interval_needs_them_in_each_sample():
    late = np.where(np.arange(7) < 4, 0.0, 1.0)  # at three horizons
    earlier = np.where(np.arange(7) < 3, 0.0, 1.0)
    assert np.isnan(compounding.slope(late))
    assert compounding.slope(earlier) == pytest.approx(0)
    made = np.stack([late, earlier])[:, None]  # some samples are all of the first seed
    assert np.isnan(compounding.slope_interval(made)).all()
    assert report.slope_of(np.zeros((2, 1, 7))) == "no mistakes"
    assert report.slope_of(made[:1]) == "too few horizons"
    assert report.slope_of(made) == "0.3"
    assert report.slope_of(made[1:].repeat(2, axis=0)) == "0.0 (0.0 to 0.0)"


def test_the_mistakes_of_all_seeds_are_seeds_by_episodes_by_horizons():
    results = []
    for seed in range(2):
        found = {str(T): [100 * seed + 10, T] for T in compounding.HORIZONS}  # two episodes
        results.append({"mistakes": found})
    made = compounding.mistakes_of(results)
    assert made.shape == (2, 2, len(compounding.HORIZONS))
    assert (made[1, 0] == 110).all()
    assert made[0, 1].tolist() == compounding.HORIZONS


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
    actions = pair(obs)
    np.testing.assert_array_equal(actions[0::2], pair.first(obs)[0::2])
    np.testing.assert_array_equal(actions[1::2], pair.second(obs)[1::2])
    assert np.abs(pair.first(obs) - pair.second(obs)).max() > 0.1


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


def clone_and_ppo():
    torch.set_num_threads(1)
    torch.manual_seed(0)
    envs = bc_gaussian.make_envs(bc_gaussian.Args(), 1)
    clone = bc_gaussian.Policy(envs.single_observation_space, envs.single_action_space)
    obs = torch.randn(500, 11) * torch.linspace(0.1, 9, 11) + 2
    clone.set_statistics(obs, 0.3 * torch.randn(500, 3) + 0.1)
    ppo = finetune.make_ppo("Hopper-v4", 0, learning_rate=1e-3, sigma=0.2)
    finetune.start_from(ppo, clone)
    return clone, ppo, obs.numpy()


def test_the_actor_of_ppo_begins_with_the_actions_of_the_clone():
    clone, ppo, obs = clone_and_ppo()
    obs[0] = 1e6  # beyond what the clone bounds
    actions = finetune.act(ppo, obs)
    np.testing.assert_allclose(actions, clone.act(obs), rtol=0, atol=1e-5)
    assert actions.std(axis=0).min() > 0.01
    np.testing.assert_allclose(ppo.policy.log_std.detach().exp(), 0.2, rtol=1e-5)


def test_each_parameter_is_of_the_actor_or_of_the_critic():
    _, ppo, _ = clone_and_ppo()
    actor, critic = finetune.parameters(ppo)
    found = {id(parameter) for parameter in [*actor, *critic]}
    assert len(found) == len(actor) + len(critic)
    assert found == {id(parameter) for parameter in ppo.policy.parameters()}


def test_only_the_critic_is_trained_in_the_warm_up(monkeypatch):
    monkeypatch.setattr(finetune, "NUM_STEPS", 4 * 2048)
    monkeypatch.setattr(finetune, "EVAL_EVERY", 2048)
    _, ppo, obs = clone_and_ppo()
    ppo.n_epochs = 1
    seen = []

    def look():
        policy = ppo.policy
        parts = finetune.act(ppo, obs), policy.log_std, policy.value_net.weight
        seen.append([torch.as_tensor(part).detach().clone() for part in parts])
        return 7.0

    curve = finetune.learn(ppo, 4096, look)
    assert [point[:2] for point in curve] == [[steps, 7.0] for steps in range(0, 10_000, 2048)]
    assert curve[0][2] is None
    assert curve[-1][2] == np.mean([episode["r"] for episode in ppo.ep_info_buffer])
    assert [group["lr"] for group in ppo.policy.optimizer.param_groups] == [1e-3, 3e-4]
    actions, deviations, values = zip(*seen, strict=True)
    torch.testing.assert_close(actions[2], actions[0], rtol=0, atol=1e-6)
    assert (actions[3] - actions[2]).abs().max() > 1e-4
    assert torch.equal(deviations[2], deviations[0])
    assert not torch.equal(deviations[3], deviations[2])
    assert not torch.equal(values[1], values[0])


def test_held_out_losses_and_returns_are_paired_by_update(tmp_path):
    with SummaryWriter(tmp_path) as writer:
        for update in (500, 1000, 1500, 2000):
            writer.add_scalar("loss/held_out", update / 1000, update)
            writer.add_scalar("loss/train", -1, update)
        writer.add_scalar("eval/return", 30, 1000)
        writer.add_scalar("eval/return", 70, 2000)
    assert held_out.read_curve(tmp_path) == [[1000, 1.0, 30.0], [2000, 2.0, 70.0]]


def test_rank_correlation():
    rng = np.random.default_rng(0)
    x = rng.normal(size=7)
    assert held_out.rank_correlation(x, np.exp(x)) == pytest.approx(1)
    assert held_out.rank_correlation(x, -(x**3)) == pytest.approx(-1)
    assert held_out.rank_correlation([1, 2, 3, 4], [10, 30, 20, 40]) == pytest.approx(0.8)
