"""What all scripts share: rollouts, seeds, the held-out split, the evaluation and the updates."""

import importlib
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests import walk
from tests.walk import Watcher, args_for, by_seed, walk_envs

SCRIPTS = ["bc_mse", "bc_gaussian", "bc_mog", "bc_autoregressive", "bc_diffusion", "bc_flow"]
DAGGERS = ["dagger", "hg_dagger"]
ALL_SCRIPTS = [*SCRIPTS, *DAGGERS]


@pytest.fixture(autouse=True)
def seeded():
    torch.set_num_threads(1)
    torch.manual_seed(0)


# --- Rollout ---


@pytest.mark.parametrize("script", ALL_SCRIPTS)
@pytest.mark.parametrize("num_envs, num_episodes", [(1, 3), (4, 4), (3, 8), (8, 5)])
def test_episode_k_has_the_seed_plus_k_and_is_whole(script, num_envs, num_episodes):
    module = importlib.import_module(script)
    episodes = module.rollout(walk_envs(num_envs), by_seed, num_episodes, seed=40)
    assert len(episodes) == num_episodes
    for k, episode in enumerate(episodes):
        steps = walk.length(40 + k)
        assert episode.obs[:, 0].tolist() == [40 + k] * steps
        assert episode.obs[:, 1].tolist() == list(range(steps))


@pytest.mark.parametrize("script", ALL_SCRIPTS)
def test_a_step_holds_the_action_and_the_reward_that_followed_its_observation(script):
    module = importlib.import_module(script)
    for episode in module.rollout(walk_envs(4), by_seed, 8, seed=40):
        expected = by_seed(episode.obs)
        np.testing.assert_array_equal(episode.actions, expected)
        np.testing.assert_array_equal(episode.rewards, expected[:, 0])
        np.testing.assert_array_equal(episode.obs[1:, 2], expected[:-1, 0])


@pytest.mark.parametrize("script", ALL_SCRIPTS)
def test_an_episode_keeps_what_its_own_last_step_says_of_success(script):
    module = importlib.import_module(script)
    episodes = module.rollout(walk_envs(4), by_seed, 8, seed=40)
    infos = [{"is_success": True, "mode": "L"}, {}, {"is_success": True, "mode": "R"}, {}]
    assert [episode.info for episode in episodes] == infos * 2


@pytest.mark.parametrize("script", ALL_SCRIPTS)
def test_an_expert_may_change_its_observation_and_reuse_its_array(script):
    module = importlib.import_module(script)
    reused = np.zeros((4, 1), np.float32)

    def careless(obs):
        reused[:] = by_seed(obs)
        obs[:] = 0
        return reused

    careful = module.rollout(walk_envs(4), by_seed, 4, seed=40)
    for episode, expected in zip(
        module.rollout(walk_envs(4), careless, 4, seed=40), careful, strict=True
    ):
        np.testing.assert_array_equal(episode.obs, expected.obs)
        np.testing.assert_array_equal(episode.actions, expected.actions)


@pytest.mark.parametrize("script", ALL_SCRIPTS)
def test_actions_of_another_shape_are_refused(script, capsys):
    module = importlib.import_module(script)
    with pytest.raises(SystemExit):
        module.rollout(walk_envs(4), lambda obs: np.zeros(4), 4, seed=0)
    assert "(4, 1) are needed, not (4,)" in capsys.readouterr().err


# --- Data ---


@pytest.mark.parametrize("script", ["bc_mse", "bc_gaussian", "bc_mog", "bc_autoregressive"])
def test_tensors_hold_all_steps_in_a_row(script):
    module = importlib.import_module(script)
    episodes = module.rollout(walk_envs(4), by_seed, 4, seed=40)
    obs, actions = module.to_tensors(episodes, "cpu")
    assert obs.dtype == actions.dtype == torch.float32
    assert obs[:, 0].tolist() == [40, 41, 41, 42, 42, 42, 43, 43, 43, 43]
    np.testing.assert_array_equal(actions, by_seed(obs.numpy()))


def test_a_discrete_action_becomes_a_column():
    module = importlib.import_module("bc_autoregressive")
    episode = module.Episode(np.zeros((3, 2)), np.array([2, 0, 1]), np.zeros(3), {})
    _, actions = module.to_tensors([episode, episode], "cpu")
    assert actions.tolist() == [[2], [0], [1], [2], [0], [1]]


def every_third(script, length, seed=0, dtype=np.float64):
    """Observations and labels of every third step of 40 demonstrations of this length."""
    module, args = args_for(script, label_every=3, seed=seed)
    steps = np.arange(length)
    actions = steps.astype(dtype)
    if dtype == np.float64:
        actions = actions[:, None]
    demos = []
    for number in range(40):
        obs = np.stack([np.full(length, number), steps], axis=1)
        demos.append(module.Episode(obs, actions, np.zeros(length), {}))
    return module.to_tensors(args, demos)


@pytest.mark.parametrize("script", DAGGERS)
@pytest.mark.parametrize("dtype", [np.float64, np.int64])
def test_every_nth_step_of_each_demonstration_is_a_label_from_a_random_one_on(script, dtype):
    obs, labels = every_third(script, 8, dtype=dtype)
    assert labels.flatten().tolist() == obs[:, 1].tolist()
    assert labels.dtype == (torch.int64 if dtype == np.int64 else torch.float32)
    steps = [tuple(obs[obs[:, 0] == number, 1].int().tolist()) for number in range(40)]
    assert set(steps) == {(0, 3, 6), (1, 4, 7), (2, 5)}


@pytest.mark.parametrize("script", DAGGERS)
def test_a_demonstration_shorter_than_n_has_one_label(script):
    obs, _ = every_third(script, 2)
    assert obs[:, 0].tolist() == list(range(40))
    assert set(obs[:, 1].tolist()) == {0, 1}


@pytest.mark.parametrize("script", DAGGERS)
def test_which_steps_are_labels_depends_on_the_seed(script):
    assert torch.equal(every_third(script, 9, seed=1)[0], every_third(script, 9, seed=1)[0])
    assert not torch.equal(every_third(script, 9, seed=1)[0], every_third(script, 9, seed=2)[0])


@pytest.mark.parametrize("script", SCRIPTS)
def test_the_number_of_transitions_leaves_out_what_is_held_out(script):
    module, args = args_for(script, num_demos=3)
    demos = module.rollout(walk_envs(4), by_seed, 5, seed=40)
    metadata = module.describe(args, demos)
    assert metadata["num_transitions"] == metadata["expert_labels"] == 1 + 2 + 3
    assert metadata["expert_return"] == np.mean([demo.rewards.sum() for demo in demos])


# --- Seeds of demonstrations, held-out demonstrations and evaluation ---


class Seen(Exception):
    """Raised where a run would begin to train."""


def run_until_training(module, args, monkeypatch, capture):
    """`main`, until it calls what `capture` names; returns the arguments of that call."""
    monkeypatch.setattr(module, "exit_on_interrupt", lambda message: None)
    monkeypatch.setattr(module, "load_expert", lambda *_: by_seed)

    def stop(*arguments):
        raise Seen(arguments)

    monkeypatch.setattr(module, capture, stop)
    with pytest.raises(Seen) as seen:
        module.main(args)
    return seen.value.args[0]


def seeds_of(episodes):
    return [int(episode.obs[0, 0]) for episode in episodes]


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("num_demos, num_held_out", [(1, 1), (10, 1), (11, 2), (25, 3)])
def test_a_tenth_as_many_demonstrations_on_top_are_held_out(
    script, num_demos, num_held_out, tmp_path, monkeypatch
):
    module, args = args_for(script, num_demos=num_demos, seed=3, run_dir=str(tmp_path))
    demos = run_until_training(module, args, monkeypatch, "train")[2]
    assert seeds_of(demos) == list(range(3_000_000, 3_000_000 + num_demos + num_held_out))


@pytest.mark.parametrize("script", DAGGERS)
def test_demonstrations_have_seeds_from_a_million_times_the_seed(script, tmp_path, monkeypatch):
    module, args = args_for(script, num_demos=3, seed=3, run_dir=str(tmp_path))
    obs = run_until_training(module, args, monkeypatch, script)[2]
    assert obs[:, 0].unique().tolist() == [3_000_000, 3_000_001, 3_000_002]


@pytest.mark.parametrize("script", ALL_SCRIPTS)
def test_the_expert_gets_the_seed(script, monkeypatch):
    module, args = args_for(script, seed=7, num_demos=2)
    asked = []

    def load_expert(*arguments):
        asked.append(arguments)
        return by_seed

    monkeypatch.setattr(module, "load_expert", load_expert)
    module.collect_demonstrations(args, walk_envs(2) if script in DAGGERS else 2)
    assert asked == [("Walk-v0", None, 7)]


def seed_sensitive_policy():
    """Acts by the step, draws a random number at each call, and notes the seeds that it sees."""
    policy = SimpleNamespace(seeds=[], noise=[], queue=[])

    def act(obs):
        policy.seeds += obs[obs[:, 1] == 0, 0].astype(int).tolist()
        policy.noise.append(torch.rand(1).item())
        return by_seed(obs)

    policy.act = act
    return policy


@pytest.mark.parametrize("script", ALL_SCRIPTS)
def test_evaluation_has_seeds_of_its_own(script):
    module, args = args_for(script, seed=3)
    policy = seed_sensitive_policy()
    module.evaluate(args, walk_envs(4), policy, 8)
    assert [seed for seed in policy.seeds if seed >= 0] == list(range(3_500_000, 3_500_008))


@pytest.mark.parametrize("script", ALL_SCRIPTS)
def test_videos_show_the_first_episodes_of_the_evaluation(script, tmp_path, monkeypatch):
    module, args = args_for(script, seed=3)
    policy = seed_sensitive_policy()
    envs = walk_envs(1)
    envs.render = lambda: ([np.zeros((16, 16, 3), np.uint8)],)
    monkeypatch.setattr(module, "make_video_envs", lambda args: envs)
    if script in ("bc_diffusion", "bc_flow"):
        policy.queue.append("an action of an earlier episode")
    module.record_videos(args, policy, tmp_path)
    assert [seed for seed in policy.seeds if seed >= 0] == [3_500_000, 3_500_001, 3_500_002]
    assert not policy.queue
    assert len(list((tmp_path / "videos").glob("*.mp4"))) == 3


@pytest.mark.parametrize("script", ALL_SCRIPTS)
def test_evaluation_counts_returns_successes_and_modes(script):
    module, args = args_for(script, seed=0)
    results = module.evaluate(args, walk_envs(3), seed_sensitive_policy(), 6)
    returns = [1, 0.5 + 1.5, 1 + 2 + 3, 0.5 + 1.5 + 2.5 + 3.5, 1, 0.5 + 1.5]
    assert results["eval_returns"] == returns
    assert results["return_mean"] == pytest.approx(np.mean(returns))
    assert results["return_std"] == pytest.approx(np.std(returns))
    assert results["success_rate"] == 3 / 6
    assert results["modes"] == {"L": 2, "R": 1}


@pytest.mark.parametrize("script", SCRIPTS[1:])
def test_what_evaluation_draws_depends_on_the_seed_alone_and_disturbs_nothing(script):
    module, args = args_for(script, seed=3)
    policy = seed_sensitive_policy()
    before = torch.get_rng_state()
    module.evaluate(args, walk_envs(4), policy, 4)
    assert torch.equal(torch.get_rng_state(), before)
    first = policy.noise
    policy.noise = []
    torch.rand(5)
    module.evaluate(args, walk_envs(4), policy, 4)
    assert policy.noise == first
    policy.noise = []
    args.seed = 4
    module.evaluate(args, walk_envs(4), policy, 4)
    assert policy.noise != first


@pytest.mark.parametrize("script", ALL_SCRIPTS)
def test_the_network_is_initialised_by_the_seed(script, tmp_path, monkeypatch):
    capture = script if script in DAGGERS else "train"
    weights = []
    for seed in (1, 1, 2):
        module, args = args_for(script, num_demos=1, seed=seed, run_dir=str(tmp_path))
        args.hidden_dim = 8
        args.run_dir = str(tmp_path / str(len(weights)))
        torch.rand(len(weights))
        policy = run_until_training(module, args, monkeypatch, capture)[1]
        weights.append(next(policy.parameters()))
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


# --- Updates ---


class Watched(torch.nn.Module):
    """A policy that notes what it is asked.

    Its loss is its weight, of which the gradient is 1; ten more where no gradient is wanted.
    """

    def __init__(self):
        super().__init__()
        self.net = torch.nn.Linear(1, 1, bias=False)
        self.statistics = []
        self.batches = []  # those with a gradient
        self.held_out = []
        self.events = []

    def set_statistics(self, obs, actions):
        self.statistics.append((obs, actions))

    def loss(self, obs, actions):
        if torch.is_grad_enabled():
            self.batches.append((obs, actions))
            return self.net.weight.sum()
        self.held_out.append((obs, actions))
        return 10 + self.net.weight.sum()

    def update_average(self):
        self.events.append("average")

    def act(self, obs):
        self.events.append("act")
        return by_seed(obs)

    @property
    def queue(self):
        return []


@pytest.fixture
def steps(monkeypatch):
    """For each optimiser step its learning rate, its gradients, and the optimiser."""
    taken = []
    plain_step = torch.optim.AdamW.step

    def step(self, *arguments):
        (group,) = self.param_groups
        gradients = [parameter.grad.clone() for parameter in group["params"]]
        taken.append((group["lr"], gradients, self))
        return plain_step(self, *arguments)

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    return taken


def train_bc(script, tmp_path, **arguments):
    """`train` of a behaviour-cloning script on 4 demonstrations, of which 1 is held out."""
    arguments = {"num_demos": 3, "num_updates": 40, "batch_size": 64} | arguments
    module, args = args_for(script, **arguments)
    demos = module.rollout(walk_envs(4), by_seed, 4, seed=40)
    policy = Watched()
    writer = Watcher()
    metadata = {}
    module.train(args, policy, demos, walk_envs(2), Path(tmp_path), writer, metadata)
    return policy, writer, metadata


@pytest.mark.parametrize("script", SCRIPTS)
def test_training_and_statistics_leave_out_the_held_out_demonstrations(script, tmp_path):
    policy, *_ = train_bc(script, tmp_path)
    (statistics,) = policy.statistics
    assert statistics[0][:, 0].tolist() == [40, 41, 41, 42, 42, 42]
    np.testing.assert_array_equal(statistics[1], by_seed(statistics[0].numpy()))
    for obs, actions in policy.batches:
        assert obs.shape == (64, 3)
        assert (obs[:, 0] < 43).all()
        np.testing.assert_array_equal(actions, by_seed(obs.numpy()))


@pytest.mark.parametrize("script", SCRIPTS)
def test_the_held_out_loss_is_that_of_the_held_out_demonstrations(script, tmp_path):
    policy, writer, metadata = train_bc(script, tmp_path)
    assert len(policy.held_out) == 1
    obs, actions = policy.held_out[0]
    assert obs[:, 0].tolist() == [43, 43, 43, 43]
    np.testing.assert_array_equal(actions, by_seed(obs.numpy()))
    assert [scalar[0] for scalar in writer.scalars] == ["loss/train", "loss/held_out"]
    assert metadata["held_out_loss"] == writer.scalars[1][1]


def train_dagger(script, num_updates=40, labels=6):
    module, args = args_for(script, batch_size=64)
    policy = Watched()
    obs = torch.arange(labels).float()[:, None]
    module.train(args, policy, obs, 10 * obs, num_updates, Watcher())
    return policy


def train(script, tmp_path):
    return train_dagger(script) if script in DAGGERS else train_bc(script, tmp_path)[0]


@pytest.mark.parametrize("script", DAGGERS)
def test_a_round_trains_on_all_labels_with_their_statistics(script):
    policy = train_dagger(script)
    (statistics,) = policy.statistics
    assert statistics[0].flatten().tolist() == [0, 1, 2, 3, 4, 5]
    assert statistics[1].flatten().tolist() == [0, 10, 20, 30, 40, 50]


@pytest.mark.parametrize("script", DAGGERS)
def test_each_round_has_an_optimiser_of_its_own(script, steps):
    train_dagger(script)
    train_dagger(script)
    optimizers = {id(optimizer) for _, _, optimizer in steps}
    assert len(steps) == 80
    assert len(optimizers) == 2


@pytest.mark.parametrize("script", ALL_SCRIPTS)
def test_batches_hold_every_transition_equally_often(script, tmp_path):
    policy = train(script, tmp_path)
    assert len(policy.batches) == 40
    drawn = torch.cat([obs for obs, _ in policy.batches])
    _, counts = drawn.unique(dim=0, return_counts=True)
    assert len(counts) == 6
    assert counts.min() > 0.8 * 40 * 64 / 6
    if script in DAGGERS:
        assert all(torch.equal(actions, 10 * obs) for obs, actions in policy.batches)


@pytest.mark.parametrize("script", ALL_SCRIPTS)
def test_the_learning_rate_warms_up_and_falls_to_zero_by_a_cosine(script, tmp_path, steps):
    train(script, tmp_path)
    rates = [rate / 1e-3 for rate, _, _ in steps]
    assert len(rates) == 40
    assert rates[0] == pytest.approx(0.5)  # the warm-up is 5% of the updates
    cosine = [math.cos(math.pi * update / 80) ** 2 for update in range(2, 41)]
    assert rates[1:] == pytest.approx(cosine, abs=1e-9)


@pytest.mark.parametrize("script", ALL_SCRIPTS)
def test_each_step_has_the_gradient_of_its_own_batch(script, tmp_path, steps):
    train(script, tmp_path)
    assert [[g.item() for g in gradients] for _, gradients, _ in steps] == [[1.0]] * 40


@pytest.mark.parametrize("script", ["bc_diffusion", "bc_flow"])
def test_the_average_is_updated_after_each_optimiser_step(script, tmp_path, monkeypatch):
    order = []
    plain_step = torch.optim.AdamW.step

    def step(self, *arguments):
        order.append("step")
        return plain_step(self, *arguments)

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    monkeypatch.setattr(Watched, "update_average", lambda self: order.append("average"))
    train_bc(script, tmp_path)
    assert order == ["step", "average"] * 40


@pytest.mark.parametrize("script", SCRIPTS)
def test_the_last_policy_is_the_one_that_is_kept(script, tmp_path):
    policy, *_ = train_bc(script, tmp_path)
    saved = load_file(tmp_path / "policy.safetensors")
    assert saved["net.weight"].item() == policy.net.weight.item()


@pytest.mark.parametrize("script", SCRIPTS)
def test_the_policy_is_evaluated_on_the_way_and_not_at_the_end(script, tmp_path):
    _, writer, _ = train_bc(script, tmp_path, eval_every=10)
    returns = [scalar for scalar in writer.scalars if scalar[0] == "eval/return"]
    assert [step for _, _, step in returns] == [10, 20, 30]
    assert returns[0][1] == (1 + 2) / 2  # of two episodes, with the seeds 500,000 and 500,001


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_loss_that_is_not_finite_ends_the_run(script, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(Watched, "loss", lambda self, *_: math.nan * self.net.weight.sum())
    with pytest.raises(SystemExit):
        train_bc(script, tmp_path)
    assert "--learning-rate" in capsys.readouterr().err
    assert not (tmp_path / "policy.safetensors").exists()
