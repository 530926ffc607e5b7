"""The autoregressive policy: a distribution, strictly causal, over bins and over categories."""

from itertools import product

import gymnasium as gym
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import distributions as D

import bc_autoregressive

OBS_SPACE = gym.spaces.Box(-np.inf, np.inf, (3,), np.float32)


@pytest.fixture(autouse=True)
def seeded():
    torch.set_num_threads(1)
    torch.manual_seed(0)


def make(action_space, **arguments):
    return bc_autoregressive.Policy(OBS_SPACE, action_space, hidden_dim=16, **arguments)


def fitted(act_dim=3, num_bins=6, **arguments):
    space = gym.spaces.Box(-2, 2, (act_dim,), np.float32)
    policy = make(space, num_bins=num_bins, **arguments)
    policy.set_statistics(torch.randn(50, 3), torch.rand(50, act_dim))
    policy.head.data *= 3  # far from even
    return policy.double()


# --- Bins ---


def test_bins_reach_three_bandwidths_beyond_the_demonstrations():
    policy = make(gym.spaces.Box(-9, 9, (2,), np.float32), num_bins=32, smoothing=0.2)
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
    policy = make(gym.spaces.Box(-9, 9, (2,), np.float32), num_bins=4, smoothing=0.01)
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


def test_categories_sum_to_one_and_missing_ones_are_never_drawn():
    policy = make(gym.spaces.MultiDiscrete([3, 2, 4])).double()
    obs = torch.randn(1, 3, dtype=torch.float64)
    actions = torch.tensor(list(product(range(3), range(2), range(4))), dtype=torch.float64)
    total = policy.log_prob(obs.expand(len(actions), -1), actions).exp().sum()
    assert total.item() == pytest.approx(1, abs=1e-9)
    drawn = policy.float().act(obs.expand(2000, -1).numpy())
    assert drawn.min(axis=0).tolist() == [0, 0, 0]
    assert drawn.max(axis=0).tolist() == [2, 1, 3]


def test_a_dimension_of_a_single_category_has_probability_one():
    policy = make(gym.spaces.MultiDiscrete([1, 3])).double()
    obs = torch.randn(1, 3, dtype=torch.float64)
    actions = torch.tensor([[0.0, 0.0], [0.0, 1.0], [0.0, 2.0]], dtype=torch.float64)
    total = policy.log_prob(obs.expand(3, -1), actions).exp().sum()
    assert total.item() == pytest.approx(1, abs=1e-9)


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


def shift(action, log_p, centres, bandwidth):
    """Three mean-shift steps of one number, as in (3)."""
    for _ in range(3):
        kernel = D.Normal(action, 2 * bandwidth)
        r = (log_p + kernel.log_prob(centres)).exp()
        action = (r * centres).sum() / r.sum()
    return action


def test_an_action_is_a_drawn_bin_shifted_three_times_towards_its_mode():
    policy = fitted(act_dim=1, smoothing=0.5)
    centres = policy.centres[0]
    obs = torch.randn(1, 3, dtype=torch.float64)
    log_p = policy(obs, policy.soft_labels(centres[:1, None]))[0, 0].detach()
    oracle = torch.stack([shift(c, log_p, centres, policy.bandwidth[0, 0]) for c in centres])
    assert (oracle - centres).abs().max() > 0.05

    drawn = policy.float().act(obs.expand(40_000, -1).numpy())
    distance, bins = torch.cdist(torch.from_numpy(drawn).double(), oracle[:, None]).min(1)
    assert distance.max() < 1e-5
    frequencies = torch.bincount(bins, minlength=6) / len(drawn)
    torch.testing.assert_close(frequencies, log_p.exp().float(), rtol=0, atol=0.01)


def test_drawing_one_by_one_follows_the_parallel_probabilities_of_bins():
    """The second action, given the first, has the probabilities of teacher forcing."""
    policy = fitted(act_dim=2, num_bins=3, smoothing=0.5)
    obs = torch.randn(1, 3, dtype=torch.float64)
    drawn = torch.from_numpy(policy.float().act(obs.expand(60_000, -1).numpy())).double()
    policy.double()
    num_checked = 0
    for first in drawn[:, 0].unique():
        second = drawn[drawn[:, 0] == first, 1]
        if len(second) < 5000:
            continue
        given = torch.tensor([[first, 0.0]], dtype=torch.float64)
        log_p = policy(obs, policy.soft_labels(given))[0, 1].detach()
        centres = policy.centres[1]
        oracle = torch.stack([shift(c, log_p, centres, policy.bandwidth[1, 0]) for c in centres])
        bins = (second[:, None] - oracle).abs().argmin(1)
        frequencies = torch.bincount(bins, minlength=3) / len(second)
        torch.testing.assert_close(frequencies, log_p.exp().float(), rtol=0, atol=0.03)
        num_checked += 1
    assert num_checked > 1


def test_drawing_one_by_one_follows_the_parallel_probabilities_of_categories():
    policy = make(gym.spaces.MultiDiscrete([2, 3]))
    policy.head.data *= 3
    obs = torch.randn(1, 3)
    drawn = policy.act(obs.expand(100_000, -1).numpy())
    for pair in product(range(2), range(3)):
        frequency = (drawn == pair).all(-1).mean()
        probability = policy.log_prob(obs, torch.tensor([pair])).exp().item()
        assert frequency == pytest.approx(probability, abs=0.01)


def test_discrete_actions_may_start_elsewhere_than_at_zero():
    actions = make(gym.spaces.Discrete(3, start=-1)).act(np.random.normal(size=(500, 3)))
    assert actions.shape == (500,)
    assert actions.dtype == np.int64
    assert set(actions.tolist()) == {-1, 0, 1}


def test_multidiscrete_actions_may_start_elsewhere_than_at_zero():
    space = gym.spaces.MultiDiscrete([2, 3], start=[4, -1])
    actions = make(space).act(np.random.normal(size=(500, 3)))
    assert actions.shape == (500, 2)
    assert set(actions[:, 0].tolist()) == {4, 5}
    assert set(actions[:, 1].tolist()) == {-1, 0, 1}


def test_categories_are_learned():
    policy = make(gym.spaces.MultiDiscrete([2, 3]))
    obs = torch.randn(1000, 3)
    actions = torch.stack([obs[:, 0] > 0, obs.argmax(-1)], dim=-1).float()
    policy.set_statistics(obs, actions)
    optimizer = torch.optim.Adam(policy.parameters(), lr=1e-2)
    for _ in range(200):
        loss = policy.loss(obs, actions)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert (policy.act(obs.numpy()) == actions.numpy()).mean() > 0.9
