"""The functions behind the studies measure what they say: states, seeds and settings."""

import json
import time
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest

import bc_gaussian
import bc_mse
import experts
from benchmark import compounding, finetune, gaits, humanoid, run, speed, steps, tables
from benchmark.grids import ROAD, Row

RESULTS = {"expert_labels": 77}


def episode(obs, actions):
    """One with states that have one dimension, and actions with two."""
    obs = np.array(obs, dtype=float)[:, None]
    return bc_mse.Episode(obs, np.array(actions, dtype=float), np.ones(len(obs)), {})


def test_errors_are_the_policys_on_the_experts_states_and_on_its_own(monkeypatch):
    """States tell whose they are: the policy errs by 0.1 on the expert's, by 3 on its own."""
    played = []

    def expert(obs):
        return np.tile([2.0, 0.0], (len(obs), 1)) + obs * [0, 1]

    def act(obs):
        return np.where(obs < 5, np.add(obs, [1.1, 0.1]), expert(obs) + 3.0)

    def rollout(envs, who, num_episodes, seed):
        played.append((who, num_episodes, seed))
        if who is expert:  # actions of deviation 1: distances are in these
            return [episode([0, 2] * 500, [[1.0, 0.0], [3.0, 2.0]] * 500)] * num_episodes
        states = np.full((40, 1), 7.0)  # a fall after 40 steps
        return [episode(states[:, 0], act(states))] * num_episodes

    def trained(env_id, row, seed):
        assert (row, env_id, seed) == (Row("bc_mse", "--x 1", "compounding"), "Hopper-v4", 3)
        return SimpleNamespace(act=act), RESULTS

    monkeypatch.setattr(compounding, "trained", trained)
    monkeypatch.setattr(experts, "load_expert", lambda env_id: expert)
    monkeypatch.setattr(bc_mse, "rollout", rollout)
    measured, _ = compounding.measure("Hopper-v4", Row("bc_mse", "--x 1", "compounding"), 3)
    assert played == [(expert, 50, 3_700_000), (act, 50, 3_700_000)]  # + 500,000: evaluations
    assert measured["expert_labels"] == 77
    assert measured["return_mean"] == 40
    assert measured["lengths"] == [40] * 50
    assert measured["error_on_own"][:3] == [pytest.approx(3.0)] * 2 + [None]
    assert measured["error_on_expert"] == [pytest.approx(0.1)] * 50
    assert measured["mistakes"]["50"] == [50] * 50  # 40 of its own, and ten after the fall


@pytest.mark.parametrize("name", ["scratch", "1", "4-as-from-scratch", "all"])
def test_ppo_has_the_settings_of_its_row_and_seeds_of_its_own(name, monkeypatch):
    recipe = finetune.recipes_of("Hopper-v4")[name]
    asked = {}

    def make_ppo(*arguments):
        asked["ppo"] = arguments
        return "ppo"

    def trained(env_id, row, seed):
        asked["clone"] = (row.script, *row.flags.split()[:2], env_id, seed)
        return "clone", None

    def learn(ppo, warm_up, evaluate_now):
        asked["learn"] = (ppo, warm_up)
        return [[0, evaluate_now(), None]]

    def rollout(envs, act, num_episodes, seed):
        asked["evaluation"] = (num_episodes, seed)
        return [episode([0], [[0, 0]]), episode([0, 0, 0], [[0, 0]] * 3)]

    for key, value in (("make_ppo", make_ppo), ("trained", trained), ("learn", learn)):
        monkeypatch.setattr(finetune, key, value)
    monkeypatch.setattr(finetune, "start_from", lambda *both: asked.update(start=both))
    monkeypatch.setattr(bc_gaussian, "rollout", rollout)
    measured, _ = finetune.measure("Hopper-v4", finetune.ROWS[name], 5)
    assert measured["curve"] == [[0, 2.0, None]]
    assert asked["ppo"] == ("Hopper-v4", 5, recipe)
    assert asked["learn"] == ("ppo", recipe.warm_up)
    assert asked["evaluation"] == (10, 5_800_000)  # PPO's training is from + 600,000 on
    if name == "scratch":
        assert "clone" not in asked and "start" not in asked
    else:
        assert asked["clone"] == (
            "bc_gaussian",
            "--num-demos",
            str(recipe.num_demos),
            "Hopper-v4",
            5,
        )
        assert asked["start"] == ("ppo", "clone")


def test_curves_are_returns_without_and_with_exploration_of_every_seed(monkeypatch):
    curves = {4: [[0, 10.0, None], [5, 20.0, 6.0]], 5: [[0, 30.0, None], [5, 40.0, 8.0]]}
    monkeypatch.setattr(finetune, "results_of", lambda *_: [{"curve": x} for x in curves.values()])
    monkeypatch.setattr(finetune, "normalised", lambda env_id, value: value / 10)
    steps_of, plain, explored = finetune.curves_of("Hopper-v4", "scratch")
    assert steps_of.tolist() == [0, 5]
    assert plain.tolist() == [[1, 2], [3, 4]]
    np.testing.assert_array_equal(explored, [[np.nan, 0.6], [np.nan, 0.8]])


def test_ppo_trains_in_environments_of_seeds_that_nothing_else_has():
    pytest.importorskip("stable_baselines3")
    for name, num_steps, target_kl in (("4", 2048, None), ("all", 8 * 2048, 0.01)):
        ppo = finetune.make_ppo("Hopper-v4", 5, finetune.recipes_of("Hopper-v4")[name])
        assert ppo.seed == 5_600_000
        assert ppo.env.num_envs * ppo.n_steps == num_steps
        assert ppo.target_kl == target_kl
        ppo._current_progress_remaining = 0.25
        ppo._update_learning_rate(ppo.policy.optimizer)
        rates = [group["lr"] for group in ppo.policy.optimizer.param_groups]
        assert rates == pytest.approx(np.array([1e-5, 3e-4]) * (0.25 if name == "all" else 1))


@pytest.mark.parametrize("apart, expected", [(10, 0.0), (0, 1.0)])
def test_two_experts_are_compared_on_states_of_other_episodes(apart, expected, monkeypatch):
    """They act 1 and -1 everywhere, in states that tell who acts or do not."""
    seeds = []

    def first(obs):
        return np.ones((len(obs), 1))

    def second(obs):
        return -np.ones((len(obs), 1))

    def steps_of(env_id, expert, num_episodes, seed):
        seeds.append(seed)
        obs = np.random.default_rng(seed).normal(size=(200, 2)) + apart * (expert is second)
        return obs, expert(obs)

    monkeypatch.setitem(gaits.PAIRS, "Pair-v0", (first, second, 4))

    def share_of_second(queries, *states, real=gaits.share_of_second):
        seconds.append((queries[:, 0] > 5).mean())
        return real(queries, *states)

    seconds = []  # the share of the queries that are the second's, if the states tell
    monkeypatch.setattr(gaits, "share_of_second", share_of_second)
    monkeypatch.setattr(gaits, "steps_of", steps_of)
    alike, left_open = gaits.overlap("Pair-v0", 300)
    assert seconds == [pytest.approx(0.5 * (apart > 5), abs=0.1)]
    assert alike == pytest.approx(expected, abs=0.05)
    assert left_open == pytest.approx(expected, abs=0.05)
    assert len(set(seeds)) == 4  # of each one to be found, and one to ask about


def test_the_steps_are_those_of_one_policy_on_the_episodes_of_the_evaluation(monkeypatch):
    policy = SimpleNamespace(args=SimpleNamespace(num_inference_steps=16))
    import bc_flow

    def trained(env_id, row, seed):
        assert (row.script, row.flags, seed) == ("bc_flow", ROAD, 21)
        return policy, None

    def evaluate(args, envs, policy, num_episodes):
        assert (args.seed, num_episodes) == (21, 500)
        return {"success_rate": policy.args.num_inference_steps / 100, "modes": {}}

    monkeypatch.setattr(steps, "trained", trained)
    monkeypatch.setattr(bc_flow, "evaluate", evaluate)
    measured, _ = steps.measure("Slalom-v0", steps.ROWS[1], 21)
    found = {number: result["success_rate"] for number, result in measured["steps"].items()}
    assert found == {number: number / 100 for number in steps.NUM_STEPS}


def test_a_ratio_is_the_first_time_over_the_second():
    assert speed.paired(lambda: time.sleep(0.05), lambda: time.sleep(0.005), 1, 3) > 2


def test_speed_compares_what_its_names_say(tmp_path, monkeypatch):
    """Each thing that is timed stands for what was asked for."""

    def paired(first, second, number, repeats):
        return f"{first} / {second}"

    monkeypatch.setattr(speed, "RESULTS", tmp_path)
    monkeypatch.setattr(speed, "SCRIPTS", ["bc_mog"])
    monkeypatch.setattr(speed, "paired", paired)
    monkeypatch.setattr(speed, "make_update", lambda x: (f"update {x}", f"floor {x}"))
    monkeypatch.setattr(speed, "make_rollout", lambda x: (f"bare {x}", f"controlled {x}"))
    monkeypatch.setattr(speed, "make_action", lambda x, num: f"action {x} {num}")
    monkeypatch.setattr(speed, "phases", lambda: {"train": 1})
    speed.main()
    assert json.loads((tmp_path / "speed.json").read_text()) == {
        "bc_mog": {
            "update_to_floor": "update bc_mog / floor bc_mog",
            "update_to_mse": "update bc_mog / update bc_mse",
            "share_of_bare_steps": "bare bc_mog / controlled bc_mog",
            "action_to_mse_1": "action bc_mog 1 / action bc_mse 1",
            "action_to_mse_20": "action bc_mog 20 / action bc_mse 20",
        },
        "phases": {"train": 1},
    }


def test_bare_steps_are_those_of_the_rollout(monkeypatch):
    monkeypatch.setattr(speed, "NUM_ENVS", 2)
    monkeypatch.setattr(speed, "NUM_STEPS", 7)
    counted = []
    made = bc_mse.make_envs

    def make_envs(args, num, **kwargs):
        envs = made(args, num, **kwargs)
        for env in envs:
            step = env.step
            env.step = lambda action, step=step: counted.append(action) or step(action)
        return envs

    monkeypatch.setattr(bc_mse, "make_envs", make_envs)
    bare, controlled = speed.make_rollout("bc_mse")
    counted.clear()
    controlled()
    controlled_actions = sorted(map(tuple, counted))
    counted.clear()
    bare()
    assert len(counted) == 2 * 7
    assert sorted(map(tuple, counted)) == controlled_actions


def test_the_floor_of_an_update_is_the_products_of_its_layers(monkeypatch):
    """Forward, the gradient of the weights, and of the inputs of all but the first layer."""
    import torch

    products = []
    real = torch.Tensor.__matmul__

    def product(left, right):
        products.append((*left.shape, right.shape[1]))
        return real(left, right)

    _, floor = speed.make_update("bc_mse")
    monkeypatch.setattr(torch.Tensor, "__matmul__", product)
    floor()
    assert products == [
        (256, 11, 256),
        (256, 256, 11),
        (256, 256, 256),
        (256, 256, 256),
        (256, 256, 256),
        (256, 256, 3),
        (3, 256, 256),
        (256, 3, 256),
    ]


def test_the_observations_that_are_left_out_give_the_last_action_away():
    env = gym.make("Humanoid-v4")
    env.reset(seed=0)
    env.action_space.seed(0)
    actions = [env.action_space.sample() for _ in range(30)]
    obs = np.array([env.step(action)[0] for action in actions])
    for kept, expected in ((humanoid.FORCES, True), (humanoid.STATE, False)):
        _, residuals, *_ = np.linalg.lstsq(np.array(actions), obs[:, kept], rcond=None)
        assert (residuals.max() < 1e-20) == expected
    for name, dim in (("State", 45), ("NoForces", 353)):
        reduced = gym.make(f"benchmark.humanoid:Humanoid{name}-v0")
        assert reduced.reset(seed=0)[0].shape == reduced.observation_space.shape == (dim,)


def test_two_rows_are_compared_seed_by_seed(tmp_path, monkeypatch):
    """Seed 8 has no partner, and that of seed 9 is old."""
    monkeypatch.setattr(run, "RESULTS", tmp_path)
    returns = {"bc_mse": {4: 1, 5: 2, 6: 3, 9: 0}, "bc_mog": {4: 2, 5: 5, 6: 5, 8: 0, 9: 9}}
    for script, by_seed in returns.items():
        for seed, value in by_seed.items():
            old = {} if (script, seed) == ("bc_mse", 9) else {"schema": 2}
            text = json.dumps({"return_mean": value} | old)
            run.path_of("Ant-v4", Row(script), seed).write_text(text)
    monkeypatch.setattr(tables, "normalised", lambda env_id, value: value)
    compared = "Ant-v4", Row("bc_mog"), Row("bc_mse"), [4, 5, 6, 8, 9]
    half = 4.3027 * 1 / np.sqrt(3)  # Student's t of two degrees; the differences are 1, 3, 2
    assert tables.difference(*compared) == f"+2.000 ± {half:.3f} (3)"
    run.path_of("Ant-v4", Row("bc_mog"), 6).unlink()
    assert tables.difference(*compared) == "not run"
