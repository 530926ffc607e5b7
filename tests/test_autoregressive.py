"""The autoregressive policy: a distribution, strictly causal, over bins and over categories."""

from itertools import product

import gymnasium as gym
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import distributions as D

from tests.test_policies import fit, make_policy


@pytest.fixture(autouse=True)
def seeded():
    torch.set_num_threads(1)
    torch.manual_seed(0)


def make(space=None, **flags):
    return make_policy("bc_autoregressive", space, bound=9.0, **flags)


def fitted(act_dim=3, num_bins=6, **flags):
    policy = make(gym.spaces.Box(-2, 2, (act_dim,)), num_bins=num_bins, **flags)
    policy.set_statistics(torch.randn(50, 3), torch.rand(50, act_dim))
    policy.head.data *= 3  # far from even
    return policy.double()


# --- Bins ---


def test_bins_reach_three_bandwidths_beyond_the_demonstrations():
    policy = make(num_bins=32, smoothing=0.2)
    actions = torch.randn(100, 2) * torch.tensor([1.0, 0.1])
    policy.set_statistics(torch.randn(100, 3), actions)
    bandwidth = 0.2 * actions.std(0, correction=0)
    low = actions.amin(0) - 3 * bandwidth
    high = actions.amax(0) + 3 * bandwidth
    width = (high - low) / 32
    torch.testing.assert_close(policy.bandwidth[:, 0], bandwidth)
    torch.testing.assert_close(policy.centres[:, 0], low + width / 2)
    torch.testing.assert_close(policy.centres[:, -1], high - width / 2)
    torch.testing.assert_close(policy.centres.diff(dim=1), width[:, None].expand(-1, 31))


def test_the_bandwidth_is_at_least_half_a_bin():
    policy = make(num_bins=4, smoothing=0.01)
    policy.set_statistics(torch.randn(100, 3), torch.randn(100, 2))
    width = policy.centres[:, 1] - policy.centres[:, 0]
    torch.testing.assert_close(policy.bandwidth[:, 0], width / 2)


def test_soft_labels_are_a_gaussian_around_the_action():
    policy = fitted()
    actions = torch.rand(8, 3, dtype=torch.float64)
    q = policy.soft_labels(actions)
    for d in range(3):
        kernel = D.Normal(actions[:, d, None], policy.bandwidth[d])
        oracle = kernel.log_prob(policy.centres[d]).softmax(-1)
        torch.testing.assert_close(q[:, d], oracle)
        torch.testing.assert_close(policy.soft_labels(actions[:, d], d), oracle)


def test_soft_labels_of_categories_are_one_hot():
    policy = make(gym.spaces.MultiDiscrete([3, 2], start=[0, 5]))
    q = policy.soft_labels(torch.tensor([[2.0, 5.0], [0.0, 6.0]]))
    assert q[:, 0].round(decimals=6).tolist() == [[0, 0, 1], [1, 0, 0]]
    assert q[:, 1].round(decimals=6).tolist() == [[1, 0, 0], [0, 1, 0]]


# --- Density ---


def test_the_density_integrates_to_one():
    policy = fitted()
    obs = torch.randn(1, 3, dtype=torch.float64)
    combinations = torch.tensor(list(product(range(6), repeat=3)))  # every combination of bins
    actions = policy.centres[torch.arange(3), combinations]
    volume = (policy.centres[:, 1] - policy.centres[:, 0]).prod()
    total = policy.log_prob(obs.expand(len(actions), -1), actions).exp().sum() * volume
    assert total.item() == pytest.approx(1, abs=1e-6)  # the centres were rounded to float32


def test_the_density_is_that_of_the_bin_an_action_lies_in():
    policy = fitted(act_dim=1)
    obs = torch.randn(1, 3, dtype=torch.float64)
    centres = policy.centres[0]
    width = centres[1] - centres[0]
    p = policy(obs, policy.soft_labels(centres[:1, None]))[0, 0].exp()  # of the six bins
    for offset in (-0.49, 0.0, 0.49):
        actions = (centres + offset * width)[:, None]
        log_prob = policy.log_prob(obs.expand(6, -1), actions)
        torch.testing.assert_close(log_prob, (p / width).log())


@pytest.mark.parametrize("j", range(3))
def test_a_dimension_sees_only_those_before_it(j):
    policy = fitted()
    obs = torch.randn(8, 3).double()
    actions = torch.rand(8, 3).double()
    changed = actions.clone()
    changed[:, j] = 1 - changed[:, j]
    before = policy(obs, policy.soft_labels(actions))
    after = policy(obs, policy.soft_labels(changed))
    assert torch.equal(before[:, : j + 1], after[:, : j + 1])
    for d in range(j + 1, 3):
        assert (before[:, d] - after[:, d]).abs().max() > 1e-6


def test_the_loss_is_the_cross_entropy_with_the_soft_labels():
    policy = fitted()
    obs = torch.randn(8, 3).double()
    actions = torch.rand(8, 3).double()
    q = policy.soft_labels(actions)
    log_p = policy(obs, q)
    oracle = sum(F.cross_entropy(log_p[:, d], q[:, d]) for d in range(3))
    torch.testing.assert_close(policy.loss(obs, actions), oracle)


# --- Drawing ---


def shifted_bins(policy, log_p, d):
    """Each centre after three mean-shift steps (3), then clipped to the bounds."""
    centres = policy.centres[d]
    shifted = centres
    for _ in range(3):
        kernel = D.Normal(shifted[:, None], 2 * policy.bandwidth[d])  # a row for each drawn bin
        r = log_p.exp() * kernel.log_prob(centres).exp()
        shifted = (r * centres).sum(1) / r.sum(1)
    return shifted.clamp(policy.low[d], policy.high[d])


def frequencies_of(drawn, oracle):
    """How often each action of the oracle was drawn; nothing else was."""
    distance, bins = (drawn[:, None] - oracle).abs().min(1)
    assert distance.max() < 1e-5
    return torch.bincount(bins, minlength=len(oracle)) / len(drawn)


def test_actions_are_drawn_bins_shifted_three_times_each_given_those_before():
    policy = fitted(act_dim=2, num_bins=4, smoothing=0.5)
    policy.high[0] = 0.65  # below the last mode
    obs = torch.randn(1, 3, dtype=torch.float64)
    drawn = torch.from_numpy(policy.float().act(obs.expand(60_000, -1).numpy())).double()
    policy.double()

    def log_p(first, d):
        actions = torch.tensor([[first, 0.0]], dtype=torch.float64)
        return policy(obs, policy.soft_labels(actions))[0, d].detach()  # as in training

    p = log_p(0.0, 0)
    oracle = shifted_bins(policy, p, 0)
    assert (oracle - policy.centres[0]).abs().max() > 0.05
    assert oracle.max() == policy.high[0]
    frequencies = frequencies_of(drawn[:, 0], oracle)
    torch.testing.assert_close(frequencies, p.exp().float(), rtol=0, atol=0.01)
    num_checked = 0
    for first in drawn[:, 0].unique():
        second = drawn[drawn[:, 0] == first, 1]
        if len(second) > 5000:
            p = log_p(first, 1)
            frequencies = frequencies_of(second, shifted_bins(policy, p, 1))
            torch.testing.assert_close(frequencies, p.exp().float(), rtol=0, atol=0.03)
            num_checked += 1
    assert num_checked > 1


@pytest.mark.parametrize("sizes", [[3, 2, 4], [1, 3]])
def test_categories_are_drawn_with_their_probabilities_and_missing_ones_never(sizes):
    policy = make(gym.spaces.MultiDiscrete(sizes))
    policy.head.data *= 3
    obs = torch.randn(1, 3)
    actions = torch.tensor(list(product(*map(range, sizes))))
    probabilities = policy.log_prob(obs.expand(len(actions), -1), actions).exp()
    assert probabilities.sum().item() == pytest.approx(1, abs=1e-5)
    drawn = torch.from_numpy(policy.act(obs.expand(100_000, -1).numpy()))
    is_drawn = (drawn[:, None] == actions).all(-1)
    assert is_drawn.any(1).all()
    torch.testing.assert_close(is_drawn.float().mean(0), probabilities, rtol=0, atol=0.01)


SPACES = [gym.spaces.Discrete(3, start=-1), gym.spaces.MultiDiscrete([2, 3], start=[4, -1])]
SPACES += [gym.spaces.Box(-1, 5, (2,), np.int64)]  # bins, rounded


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_whole_numbers_may_start_elsewhere_than_at_zero_and_are_learned(space):
    policy = make(space, hidden_dim=64)
    obs = torch.randn(1000, 3)
    actions = torch.stack([4 + (obs[:, 0] > 0), obs.argmax(-1) - 1], dim=-1).float()
    actions = actions[:, -policy.D :]
    fit(policy, obs, actions, 200, learning_rate=1e-2)
    chosen = policy.act(obs.numpy())
    assert chosen.shape == (1000, *space.shape)
    assert chosen.dtype == np.int64
    assert (chosen.reshape(1000, -1) == actions.numpy()).mean() > 0.9
