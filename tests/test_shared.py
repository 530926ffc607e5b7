"""What all scripts share: rollouts, seeds, the held-out split, the evaluation and the updates.

tests/test_twins.py holds the scripts together, so that for each text of a definition one stands.
"""

import json
import subprocess
import sys
from collections import deque
from pathlib import Path
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete, MultiDiscrete
from safetensors.torch import load_file

import bc_mog
from tests import walk
from tests.walk import Walk, args_for, by_seed, walk_envs


@pytest.fixture(autouse=True)
def seeded():
    torch.set_num_threads(1)
    Walk.played.clear()


def careless(num_envs):
    """An expert with one array for all its actions, which spoils the observations that it gets."""
    reused = np.zeros((num_envs, 1), np.float32)

    def act(obs):
        reused[:] = by_seed(obs)
        obs[:] = 0
        return reused

    return act


@pytest.mark.parametrize("script", ["bc_mog", "bc_flow", "dart"])
@pytest.mark.parametrize("num_envs, num_episodes", [(1, 3), (4, 4), (3, 8), (8, 5)])
def test_episodes_are_whole_and_hold_what_happened(script, num_envs, num_episodes):
    module, args = args_for(script, max_episode_steps=3)
    envs = module.make_envs(args, num_envs)
    episodes = module.rollout(envs, careless(num_envs), num_episodes, 40)
    assert len(episodes) == num_episodes
    for seed, episode in enumerate(episodes, start=40):
        steps = min(walk.length(seed), 3)
        expected = by_seed(episode.obs)
        assert episode.obs[:, 0].tolist() == [seed] * steps
        assert episode.obs[:, 1].tolist() == list(range(steps))
        np.testing.assert_array_equal(episode.obs[1:, 2], expected[:-1, 0])
        np.testing.assert_array_equal(episode.actions, expected)
        np.testing.assert_array_equal(episode.rewards, expected[:, 0])
        success = {"is_success": True, "mode": "L?R?"[seed % 4]}
        assert episode.info == (success if seed % 2 == 0 else {})
    # No environment is stepped that has no episode to play.
    assert sorted(Walk.played) == [seed for episode in episodes for seed in episode.obs[:, 0]]


# --- Demonstrations ---


@pytest.mark.parametrize("num_demos, num_held_out", [(1, 1), (10, 1), (11, 2), (25, 3)])
def test_ten_percent_more_demonstrations_are_held_out(num_demos, num_held_out):
    _, args = args_for("bc_mog", num_demos=num_demos, num_envs=4, seed=3)
    demos, held_out = bc_mog.collect_demonstrations(args)
    assert len(demos) == num_demos
    seeds = [episode.obs[0, 0] for episode in demos + held_out]
    assert seeds == list(range(3_000_000, 3_000_000 + num_demos + num_held_out))


OBS = np.zeros((4, 5))
UNIT = Box(-1, 1, (2,), np.float32)
TWO_OR_THREE = Discrete(2, start=2)
PAIR = MultiDiscrete([2, 3])


@pytest.mark.parametrize(
    "space, actions",
    [
        (UNIT, np.full((4, 2), 1 + 1e-12)),  # float64, within the precision of float32
        (UNIT, np.ones((4, 2), int)),
        (TWO_OR_THREE, np.array([2, 3, 2, 3], np.int32)),
        (PAIR, np.array([[0, 0], [1, 2], [0, 1], [1, 1]])),
    ],
)
def test_data_that_can_be_learned_pass(space, actions):
    bc_mog.check(space, OBS, actions)


@pytest.mark.parametrize(
    "space, obs, actions, message",
    [
        (UNIT, np.zeros((5, 5)), np.zeros((4, 2)), "5 observations have actions of shape"),
        (UNIT, np.zeros((3, 5)), np.zeros((4, 2)), "3 observations have actions of shape"),
        (UNIT, OBS, np.zeros(4), r"4 observations have actions of shape \(4,\)"),
        (TWO_OR_THREE, OBS, np.full((4, 1), 2), r"4 observations have actions of shape \(4, 1\)"),
        (UNIT, np.where(np.eye(4, 5), np.nan, 0), np.zeros((4, 2)), "must be finite"),
        (UNIT, OBS, np.where(np.eye(4, 2), np.nan, 0), "must be finite"),
        (Box(-np.inf, np.inf, (2,)), OBS, np.where(np.eye(4, 2), np.inf, 0), "must be finite"),
        (UNIT, OBS, np.where(np.eye(4, 2), 1.01, 0), "and actions in Box"),
        (UNIT, OBS, np.where(np.eye(4, 2), -1.01, 0), "and actions in Box"),
        (TWO_OR_THREE, OBS, np.array([2, 3, 1, 3]), "and actions in Discrete"),
        (TWO_OR_THREE, OBS, np.array([2, 3, 4, 3]), "and actions in Discrete"),
        (TWO_OR_THREE, OBS, np.array([2, 3, 2.0, 3]), "Cannot cast array data"),
        (PAIR, OBS, np.array([[0, 0], [1, 2], [2, 0], [1, 1]]), "and actions in MultiDiscrete"),
    ],
)
def test_data_that_would_be_learned_without_a_word_are_refused(space, obs, actions, message):
    with pytest.raises((gym.error.Error, TypeError), match=message):
        bc_mog.check(space, obs, actions)


# --- Evaluation ---


def noisy_policy():
    """Acts by the step, and draws a random number at each call."""
    policy = SimpleNamespace(noise=[], queue=deque(["an action of an earlier episode"]))

    def act(obs):
        policy.noise.append(torch.rand(1).item())
        return by_seed(obs)

    policy.act = act
    return policy


@pytest.mark.parametrize("script", ["bc_mse", "bc_mog", "bc_flow", "dagger"])
def test_evaluation_has_seeds_of_its_own_and_counts_returns_successes_and_modes(script):
    module, args = args_for(script, seed=3)
    results = module.evaluate(args, walk_envs(3), noisy_policy(), 6)
    assert sorted(set(Walk.played)) == list(range(3_500_000, 3_500_006))
    returns = [1, 0.5 + 1.5, 1 + 2 + 3, 0.5 + 1.5 + 2.5 + 3.5, 1, 0.5 + 1.5]
    assert results == {
        "eval_returns": returns,
        "return_mean": pytest.approx(np.mean(returns)),
        "return_std": pytest.approx(np.std(returns)),
        "success_rate": 3 / 6,
        "modes": {"L": 2, "R": 1},
    }


@pytest.mark.parametrize("script", ["bc_mog", "bc_flow"])
def test_what_evaluation_draws_depends_on_the_seed_alone_and_disturbs_nothing(script):
    noise = []
    for seed in (3, 3, 4):
        torch.rand(5)
        before = torch.get_rng_state()
        module, args = args_for(script, seed=seed)
        policy = noisy_policy()
        module.evaluate(args, walk_envs(4), policy, 4)
        noise.append(policy.noise)
        assert torch.equal(torch.get_rng_state(), before)
    assert noise[0] == noise[1]
    assert noise[0] != noise[2]


@pytest.mark.parametrize("script", ["bc_mog", "bc_flow"])
def test_videos_show_the_first_episodes_of_the_evaluation(script, tmp_path, monkeypatch):
    module, args = args_for(script, seed=3)
    saved = []
    monkeypatch.setattr(module, "save_video", lambda frames, *_, **__: saved.append(frames))
    policy = noisy_policy()
    module.record_videos(args, policy, tmp_path)
    seeds = [{int(frame[0, 0, 0]) for frame in frames} for frames in saved]
    assert seeds == [{seed % 256} for seed in (3_500_000, 3_500_001, 3_500_002)]
    assert [len(frames) for frames in saved] == [1 + 1, 2 + 1, 3 + 1]
    assert len(policy.queue) == (script == "bc_mog")


# --- Whole runs ---


def run_main(script, folder, seed=3, num_updates=60):
    """Runs `main`, and notes what it asks of the expert, the policy, the optimiser, the writer."""
    flags = {"num_demos": 11, "num_envs": 3, "hidden_dim": 8, "eval_episodes": 7, "batch_size": 64}
    own = {"num_rounds": 2, "episodes_per_round": 4} if script == "dagger" else {"eval_every": 125}
    module, args = args_for(script, seed=seed, num_updates=num_updates, **flags, **own)
    args.run_dir = str(folder)
    names = "asked statistics batches held_out rates fresh scalars"
    run = SimpleNamespace(**{name: [] for name in names.split()})
    set_statistics, loss = module.Policy.set_statistics, module.Policy.loss
    plain_step = torch.optim.AdamW.step

    def note_statistics(self, *data):
        run.policy = self
        run.statistics.append(data)
        set_statistics(self, *data)

    def note_loss(self, *batch):
        kind = run.batches if torch.is_grad_enabled() else run.held_out
        kind.append((*batch, torch.get_rng_state()))
        return loss(self, *batch)

    def loss_again(noted):
        *batch, state = noted
        with torch.random.fork_rng():
            torch.set_rng_state(state)
            return loss(run.policy, *batch)

    def note_step(self, *_):
        (group,) = self.param_groups
        run.rates.append(group["lr"])
        run.fresh.append(not self.state)
        if len(run.rates) % 20 == 0:
            gradients = torch.autograd.grad(loss_again(run.batches[-1]), group["params"])
            torch.testing.assert_close([x.grad for x in group["params"]], list(gradients))
        plain_step(self)
        run.last = [parameter.detach().clone() for parameter in group["params"]]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(by_seed, "seed", run.asked.append, raising=False)
        patch.setattr(module.Policy, "set_statistics", note_statistics)
        patch.setattr(module.Policy, "loss", note_loss)
        patch.setattr(torch.optim.AdamW, "step", note_step)
        patch.setattr(module.SummaryWriter, "add_scalar", lambda _, *all: run.scalars.append(all))
        module.main(args)
    (directory,) = folder.iterdir()
    run.results = json.loads((directory / "results.json").read_text())
    run.saved = load_file(directory / "policy.safetensors")
    run.held_out_losses = [loss_again(noted) for noted in run.held_out]
    return run


def check_data(seeds, obs, actions):
    """Each step of the episodes with these seeds, equally often, and the label of each."""
    steps, counts = obs[:, :2].unique(dim=0, return_counts=True)
    assert steps.tolist() == [[seed, t] for seed in seeds for t in range(walk.length(seed))]
    assert counts.max() < 2 * counts.min()
    assert obs.dtype == actions.dtype == torch.float32
    np.testing.assert_array_equal(actions.flatten(1), by_seed(obs.numpy()))


@pytest.mark.parametrize("script", ["bc_mog", "bc_flow", "dagger"])
def test_a_run_learns_from_the_seeds_that_are_its_own(script, tmp_path):
    run = run_main(script, tmp_path, num_updates=500)
    rounds = list(range(3_600_000, 3_600_008)) if script == "dagger" else []
    demos = list(range(3_000_000, 3_000_011))
    held_out = [] if rounds else [3_000_011, 3_000_012]
    evaluated = list(range(3_500_000, 3_500_007))
    learned = [demos, demos + rounds[:4], demos + rounds] if rounds else [demos]
    assert sorted(set(Walk.played)) == demos + held_out + evaluated + rounds
    assert run.asked == [3_700_000 + i for i in range(len(learned))]

    num_updates = 500 // len(learned)
    assert [len(obs) for obs, *_ in run.batches] == [64] * num_updates * len(learned)
    for i, (seeds, statistics) in enumerate(zip(learned, run.statistics, strict=True)):
        check_data(seeds, *statistics)
        batches = run.batches[i * num_updates :][:num_updates]
        check_data(seeds, *[torch.cat(column) for column in list(zip(*batches, strict=True))[:2]])
    fraction = np.arange(1, num_updates + 1) / num_updates
    rates = 1e-3 * np.minimum(fraction / 0.05, np.cos(np.pi / 2 * fraction) ** 2)
    assert run.rates == pytest.approx(list(rates) * len(learned), abs=1e-9)
    assert run.fresh == ([True] + [False] * (num_updates - 1)) * len(learned)
    assert all(any(torch.equal(x, y) for y in run.saved.values()) for x in run.last)

    returns = {0: 1, 1: 0.5 + 1.5, 2: 1 + 2 + 3, 3: 0.5 + 1.5 + 2.5 + 3.5}
    assert run.results["expert_return"] == np.mean([returns[seed % 4] for seed in demos])
    assert run.results["expert_labels"] == len(run.statistics[-1][0])
    if held_out:
        check_data(held_out, *run.held_out[0][:2])
        assert ("loss/held_out", *run.held_out_losses, 500) in run.scalars
        evaluations = [("eval/return", step) for step in (125, 250, 375, 500)]
        names = [("loss/held_out", 500), ("loss/train", 500), *evaluations]
        assert sorted((name, step) for name, _, step in run.scalars) == sorted(names)


@pytest.mark.parametrize("script", ["bc_mog", "dagger"])
def test_a_seed_repeats_a_run(script, tmp_path):
    runs = []
    for seed in (3, 3, 4):
        run = run_main(script, tmp_path / str(len(runs)), seed)
        runs.append((run.results["eval_returns"], [x.tolist() for x in run.last]))
        torch.rand(len(runs))
    assert runs[0] == runs[1]
    assert runs[0][0] != runs[2][0]


# --- Memory ---

PROGRAM = """
import importlib, resource, sys
from unittest.mock import Mock
import numpy as np
from gymnasium.spaces import Box

module = importlib.import_module(sys.argv[1])
module.torch.set_num_threads(1)
args = module.Args(num_updates=500)
policy = module.Policy(Box(-9, 9, (11,)), Box(-9, 9, (3,)), args)
rng = np.random.default_rng(0)

def train(num_demos, num_held_out, length):
    episodes = []
    for _ in range(num_demos + num_held_out):
        obs, actions = rng.normal(size=(length, 11)), rng.uniform(-1, 1, (length, 3))
        episodes.append(module.Episode(obs, actions, np.zeros(length), {}))
    module.train(args, policy, episodes[:num_demos], episodes[num_demos:], [], Mock())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts in KiB
    return peak, sum(episode.obs.nbytes + episode.actions.nbytes for episode in episodes)

base, _ = train(1, 1, 100)  # what the libraries themselves need
peak, size = train(50, 5, 10_000)
print((peak - base) / size)
"""


@pytest.mark.slow
@pytest.mark.parametrize("script, limit", [("bc_mse", 3), ("bc_autoregressive", 8)])
def test_training_needs_a_few_times_the_memory_of_its_data(script, limit):
    root = Path(__file__).parent.parent
    command = [sys.executable, "-c", PROGRAM, script]
    options = {"check": True, "timeout": 300, "stdout": subprocess.PIPE}
    assert float(subprocess.run(command, cwd=root, **options).stdout) <= limit
