"""Each policy's loss and act: against oracles, on data with known modes, and on inputs at the edge."""

import importlib

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import distributions as D

from benchmark.run import SCRIPTS
from experts import load_expert, make_envs


def make_policy(script, obs_dim=3, low=(-1.0, -1.0), high=(1.0, 1.0), **args):
    module = importlib.import_module(script)
    obs_space = gym.spaces.Box(-np.inf, np.inf, (obs_dim,), np.float32)
    action_space = gym.spaces.Box(np.array(low, np.float32), np.array(high, np.float32))
    return module.Policy(module.Args(**args), obs_space, action_space)


def fit(policy, obs, actions, num_updates, learning_rate=1e-3, anneal=False):
    """The loss of every update of plain training; the statistics come from the same data."""
    policy.fit(obs, actions)
    optimizer, losses = torch.optim.Adam(policy.parameters(), lr=learning_rate), []
    for update in range(num_updates):
        if anneal:
            optimizer.param_groups[0]["lr"] = learning_rate * (1 - update / num_updates)
        batch = torch.randint(len(obs), (256,))
        loss = policy.loss(obs[batch], actions[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.fixture(autouse=True)
def seeded():
    torch.set_num_threads(1)
    torch.manual_seed(0)


@pytest.mark.parametrize("script", SCRIPTS)
def test_loss_decreases(script):
    obs = torch.randn(2000, 3)
    actions = torch.stack([torch.tanh(obs[:, 0] - obs[:, 1]), 0.5 * torch.sin(obs[:, 2])], dim=1)
    policy = make_policy(script)
    losses = fit(policy, obs, actions, 300)
    assert np.mean(losses[-20:]) < np.mean(losses[:5]) - 0.5
    assert (policy.act(obs) - actions).abs().mean() < 0.15


@pytest.mark.parametrize(
    "script, flag",
    [
        ("bc_gaussian", {"min_std": 0.1}),
        ("bc_mog", {"min_std": 0.1}),
        ("bc_autoregressive", {"smoothing": 0.1}),
        ("bc_diffusion", {"predict_noise": True}),
    ],
)
def test_a_saved_policy_brings_along_what_its_weights_mean(script, flag):
    """A checkpoint is the same policy without the flags that it was trained with."""
    obs, actions = torch.randn(500, 3), torch.rand(500, 2) - 0.5
    trained, loaded = make_policy(script, **flag), make_policy(script)
    fit(trained, obs, actions, 20)
    loaded.load_state_dict(trained.state_dict())
    drawn = []
    for policy in (trained, loaded):
        torch.manual_seed(1)
        with torch.no_grad():
            drawn.append((policy.loss(obs, actions), policy.act(obs)))
    torch.testing.assert_close(drawn[0], drawn[1], rtol=0, atol=0)


@pytest.mark.parametrize("decision_hz, num_updates, low, high", [(1, 400, 0.0, 0.05), (10, 1500, 0.95, 1.0)])
def test_squared_loss_fails_at_one_decision_a_second_and_not_at_ten(decision_hz, num_updates, low, high):
    """With many small decisions the closed loop breaks the symmetry: multimodality is a matter of the control rate."""
    module = importlib.import_module("bc_mse")
    envs = make_envs("LaneChange-v0", 20, decision_hz=decision_hz)
    obs, actions = module.collect_demonstrations(envs, load_expert("LaneChange-v0"), 200, seed=0, horizon=1)
    policy = module.Policy(module.Args(), envs.single_observation_space, envs.single_action_space)
    fit(policy, obs, actions, num_updates)
    assert low <= module.evaluate(envs, policy, 100, seed=600_000)["success_rate"] <= high


def test_mog_log_prob_is_that_of_the_mixture():
    policy = make_policy("bc_mog", low=(-3.0, 0.0), high=(5.0, 0.5), num_components=4).double()
    obs, actions = 2 * torch.randn(64, 3, dtype=torch.float64) + 1, torch.randn(64, 2, dtype=torch.float64) * 0.3 + 0.2
    policy.fit(obs, actions)
    log_weights, means, stds = policy(obs)
    # In the environment's units each component is the affine image of the standardised one.
    mean, std = policy.action_moments
    components = D.Independent(D.Normal(mean + std * means, std * stds), 1)
    oracle = D.MixtureSameFamily(D.Categorical(logits=log_weights), components).log_prob(actions)
    torch.testing.assert_close(policy.log_prob(obs, actions), oracle, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(policy.loss(obs, actions), -oracle.mean())


def test_gaussian_log_prob_is_that_of_the_normal_distribution():
    policy = make_policy("bc_gaussian", low=(-3.0, 0.0), high=(5.0, 0.5)).double()
    obs, actions = 2 * torch.randn(64, 3, dtype=torch.float64) + 1, torch.randn(64, 2, dtype=torch.float64) * 0.3 + 0.2
    policy.fit(obs, actions)
    mu, sigma = policy(obs)
    mean, std = policy.action_moments
    oracle = D.Independent(D.Normal(mean + std * mu, std * sigma), 1).log_prob(actions)
    torch.testing.assert_close(policy.log_prob(obs, actions), oracle, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(policy.loss(obs, actions), -oracle.mean())


def test_a_stochastic_gaussian_draws_what_it_predicts():
    policy = make_policy("bc_gaussian", stochastic=True, low=(-9.0, -9.0), high=(9.0, 9.0))
    obs = torch.randn(1, 3)
    mu, sigma = policy(obs)
    drawn = policy.act(obs.expand(50_000, -1))
    torch.testing.assert_close(drawn.mean(0), mu[0], atol=0.02, rtol=0)
    torch.testing.assert_close(drawn.std(0), sigma[0], atol=0.02, rtol=0)


def test_mog_components_start_apart():
    _, means, _ = make_policy("bc_mog", num_components=8)(torch.zeros(1, 3))
    assert torch.pdist(means[0]).min() > 0.05


@pytest.mark.parametrize("script, args", [*((script, {}) for script in SCRIPTS), ("bc_mog", {"num_components": 1})])
@pytest.mark.parametrize("num", [1, 7])
def test_extreme_inputs_stay_finite_and_actions_within_bounds(script, args, num):
    policy = make_policy(script, low=(-3.0, 0.1), high=(-2.0, 40.0), **args)
    obs, actions = torch.randn(50, 3), torch.rand(50, 2) * torch.tensor([1.0, 39.9]) + torch.tensor([-3.0, 0.1])
    obs[:, 1] = 5.0  # a constant dimension
    fit(policy, obs, actions, 3)
    for scale in (0.0, 1.0, 1e6, 1e30):
        extreme = scale * torch.randn(num, 3)
        chosen, loss = policy.act(extreme), policy.loss(extreme, actions[:num])
        assert chosen.shape == (num, 2) and torch.isfinite(loss)
        assert (chosen >= policy.action_bounds[0]).all() and (chosen <= policy.action_bounds[1]).all()
        policy.zero_grad()
        loss.backward()
        assert all(torch.isfinite(p.grad).all() for p in policy.parameters() if p.requires_grad)


@pytest.mark.parametrize("script", SCRIPTS)
def test_statistics_are_part_of_the_saved_policy(script):
    policy, other = make_policy(script), make_policy(script)
    fit(policy, 5 + torch.randn(200, 3), 0.1 * torch.randn(200, 2), 5)
    other.load_state_dict(policy.state_dict())
    obs = 5 + torch.randn(32, 3)
    torch.manual_seed(1)
    expected = policy.act(obs)
    torch.manual_seed(1)
    assert torch.equal(other.act(obs), expected)


@pytest.mark.parametrize("script", [script for script in SCRIPTS if script != "bc_autoregressive"])
def test_discrete_actions_are_refused_with_the_script_that_takes_them(script):
    module, obs_space = importlib.import_module(script), gym.spaces.Box(-1, 1, (3,))
    with pytest.raises(ValueError, match=r"bc_autoregressive\.py"):
        module.Policy(module.Args(), obs_space, gym.spaces.Discrete(2))
