"""The autoregressive policy: a distribution, strictly causal, over bins and over categories."""

from itertools import product

import gymnasium as gym
import numpy as np
import pytest
import torch

import bc_autoregressive

OBS_SPACE = gym.spaces.Box(-np.inf, np.inf, (3,), np.float32)


def make(action_space, **args):
    torch.manual_seed(0)
    return bc_autoregressive.Policy(bc_autoregressive.Args(hidden_dim=16, **args), OBS_SPACE, action_space)


def fitted(act_dim=3, num_bins=6, **args):
    policy = make(gym.spaces.Box(-2, 2, (act_dim,), np.float32), num_bins=num_bins, **args)
    policy.fit(torch.randn(50, 3), torch.rand(50, act_dim))
    return policy.double()


def test_the_density_integrates_to_one():
    policy, obs = fitted(), torch.randn(1, 3, dtype=torch.float64)
    combinations = torch.tensor(list(product(range(6), repeat=3)))  # every combination of bins
    actions = policy.centres[torch.arange(3), combinations]
    volume = (policy.centres[:, 1] - policy.centres[:, 0]).prod()
    total = policy.log_prob(obs.expand(len(actions), -1), actions).exp().sum() * volume
    assert total.item() == pytest.approx(1, abs=1e-9)


def test_categories_sum_to_one_and_missing_ones_have_none():
    policy = make(gym.spaces.MultiDiscrete([3, 2, 4])).double()
    obs = torch.randn(1, 3, dtype=torch.float64)
    actions = torch.tensor(list(product(range(3), range(2), range(4))), dtype=torch.float64)
    total = policy.log_prob(obs.expand(len(actions), -1), actions).exp().sum()
    assert total.item() == pytest.approx(1, abs=1e-9)
    drawn = policy.act(obs.expand(2000, -1))
    assert (drawn.amin(0) == 0).all() and drawn.amax(0).tolist() == [2, 1, 3]
    assert set(drawn.unique().tolist()) <= {0, 1, 2, 3}


@pytest.mark.parametrize("j", range(3))
def test_a_dimension_sees_only_those_before_it(j):
    policy, obs, actions = fitted(), torch.randn(8, 3).double(), torch.rand(8, 3).double()
    changed = actions.clone()
    changed[:, j] = 1 - changed[:, j]
    before, after = (policy.log_probs(obs, policy.smooth(a)) for a in (actions, changed))
    assert torch.equal(before[:, : j + 1], after[:, : j + 1])
    assert all((before[:, d] - after[:, d]).abs().max() > 1e-6 for d in range(j + 1, 3))


def test_drawing_one_by_one_follows_the_parallel_probabilities():
    """Frequencies of drawn categories against the probabilities of teacher forcing."""
    policy = make(gym.spaces.MultiDiscrete([2, 3]))
    policy.head.data *= 3  # far from even
    obs = torch.randn(1, 3)
    drawn = policy.act(obs.expand(100_000, -1))
    for a, b in product(range(2), range(3)):
        frequency = (drawn == torch.tensor([a, b])).all(-1).float().mean().item()
        assert frequency == pytest.approx(policy.log_prob(obs, torch.tensor([[a, b]])).exp().item(), abs=0.01)


def test_discrete_actions_may_start_elsewhere_than_at_zero():
    policy = make(gym.spaces.Discrete(3, start=-1))
    assert set(policy.act(torch.randn(500, 3)).flatten().tolist()) == {-1, 0, 1}


def test_the_recorded_quantisation_error_is_that_of_the_nearest_centres():
    actions = torch.rand(1000, 2) * torch.tensor([1.0, 4.0])
    policy = make(gym.spaces.Box(-9, 9, (2,), np.float32), num_bins=32)
    recorded = policy.fit(torch.randn(1000, 3), actions)["quantization_error"]
    widths = policy.centres[:, 1] - policy.centres[:, 0]
    assert recorded == pytest.approx((widths.square() / 12).sum().sqrt().item(), rel=0.05)  # uniform within a bin
