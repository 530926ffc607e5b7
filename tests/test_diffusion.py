"""The diffusion policy: its schedule and both samplers against the published formulas, and its chunks."""

import itertools
import math

import gymnasium as gym
import numpy as np
import pytest
import torch

import bc_diffusion
from experts import load_expert, make_envs

OBS_SPACE = gym.spaces.Box(-np.inf, np.inf, (3,), np.float32)


@pytest.fixture
def double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def make(act_dim=2, **args):
    torch.manual_seed(0)
    space = gym.spaces.Box(-1, 1, (act_dim,), np.float32)
    return bc_diffusion.Policy(bc_diffusion.Args(**args), OBS_SPACE, space)


def test_schedule_is_the_squared_cosine_and_noising_in_one_step_is_noising_step_by_step(double):
    T = 50
    f = [math.cos((t / T + 0.008) / 1.008 * math.pi / 2) ** 2 for t in range(T + 1)]
    betas = [min(1 - f[t] / f[t - 1], 0.999) for t in range(1, T + 1)]  # Nichol & Dhariwal, eq. 17
    scale, variance = 1.0, 0.0  # of q(x_t | x_0), by iterating x_t = sqrt(1 - beta) x_(t-1) + sqrt(beta) eps
    abar = make().abar.flatten()
    assert abar[0] == 1
    for t, beta in enumerate(betas, start=1):
        scale, variance = scale * math.sqrt(1 - beta), (1 - beta) * variance + beta
        assert abar[t].sqrt().item() == pytest.approx(scale, rel=1e-9)
        assert 1 - abar[t].item() == pytest.approx(variance, rel=1e-9)


def sample_with(policy, predict, seed=3):
    """A sample, with `predict` (x, t) in the network's place."""
    policy.forward = lambda net, obs, x, t: predict(x, int(t[0]))
    torch.manual_seed(seed)
    return policy.sample(torch.zeros(1000, 3))


@pytest.mark.parametrize("predict_noise", [False, True])
def test_ddim_is_the_published_update(double, predict_noise):
    policy = make(predict_noise=predict_noise, num_inference_steps=7)
    out = sample_with(policy, lambda x, t: 0.3 * torch.tanh(x) + 0.002 * t).flatten(1)
    torch.manual_seed(3)
    x, abar = torch.randn(1000, 2), policy.abar.flatten()
    steps = [max(i, math.ceil(50 * i * i / 49)) for i in range(7, -1, -1)]
    assert steps[0] == 50 and steps[-1] == 0
    for t, s in itertools.pairwise(steps):
        predicted = 0.3 * torch.tanh(x) + 0.002 * t
        x0 = (x - (1 - abar[t]).sqrt() * predicted) / abar[t].sqrt() if predict_noise else predicted
        x0 = x0.clamp(-1, 1)
        direction = (x - abar[t].sqrt() * x0) / (1 - abar[t]).sqrt()
        x = abar[s].sqrt() * x0 + (1 - abar[s]).sqrt() * direction  # Song et al., eq. 12 with sigma = 0
        torch.randn_like(x)  # drawn, and multiplied by 0
    torch.testing.assert_close(out, x, rtol=1e-9, atol=1e-9)


def test_eta_1_with_every_step_is_ddpm(double):
    policy = make(eta=1.0, num_inference_steps=50)
    out = sample_with(policy, lambda x, t: 0.5 * torch.tanh(x)).flatten(1)
    torch.manual_seed(3)
    x, abar = torch.randn(1000, 2), policy.abar.flatten()
    for t in range(50, 0, -1):
        alpha, x0 = abar[t] / abar[t - 1], 0.5 * torch.tanh(x)
        beta = 1 - alpha  # Ho et al., eq. 7: the posterior q(x_(t-1) | x_t, x_0)
        mean = abar[t - 1].sqrt() * beta / (1 - abar[t]) * x0 + alpha.sqrt() * (1 - abar[t - 1]) / (1 - abar[t]) * x
        x = mean + ((1 - abar[t - 1]) / (1 - abar[t]) * beta).sqrt() * torch.randn_like(x)
    torch.testing.assert_close(out, x, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_the_exact_denoiser_of_gaussian_data_recovers_its_moments(double, eta):
    policy, mean, std = make(eta=eta, num_diffusion_steps=1000, num_inference_steps=1000), 0.2, 0.15
    abar = policy.abar.flatten()

    def predict(x, t):  # E[x_0 | x_t] for x_0 ~ N(mean, std^2)
        gain = abar[t].sqrt() * std**2 / (abar[t] * std**2 + 1 - abar[t])
        return mean + gain * (x - abar[t].sqrt() * mean)

    out = sample_with(policy, predict)
    assert out.mean().item() == pytest.approx(mean, abs=0.01)
    assert out.std().item() == pytest.approx(std, rel=0.04)


def test_the_weights_that_act_are_an_average_of_those_that_learn():
    policy = make(ema_decay=0.9)
    for value in (1.0, 2.0, 3.0):
        for parameter in policy.net.parameters():
            parameter.data.fill_(value)
        policy.loss(torch.randn(4, 3), torch.randn(4, 2))
    expected = 1.0  # a copy of the first, then decay (1 + n) / (10 + n) until 0.9 is reached
    for n, value in ((1, 2.0), (2, 3.0)):
        decay = min(0.9, (1 + n) / (10 + n))
        expected = decay * expected + (1 - decay) * value
    for parameter in policy.ema.module.parameters():
        torch.testing.assert_close(parameter, torch.full_like(parameter, expected))
    with torch.no_grad():  # held-out losses leave it as it is
        policy.loss(torch.randn(4, 3), torch.randn(4, 2))
    assert policy.ema.n_averaged == 3


def test_chunks_are_executed_in_order_and_a_new_episode_draws_its_own():
    policy, draws = make(act_dim=1, horizon=4, action_horizon=3), []

    def sample(obs):  # chunk number k holds k.0, k.1, k.2, k.3
        draws.append(len(obs))
        return (len(draws) + 0.1 * torch.arange(4.0)).view(1, 4, 1).expand(len(obs), -1, -1) / 10

    policy.sample, obs = sample, torch.zeros(2, 3)
    policy.reset(np.array([True, True]))
    taken = [(10 * policy.act(obs)).flatten().tolist() for _ in range(2)]
    policy.reset(np.array([False, True]))  # the second environment begins anew
    taken += [(10 * policy.act(obs)).flatten().tolist() for _ in range(3)]
    expected = [[1.0, 1.0], [1.1, 1.1], [1.2, 2.0], [3.0, 2.1], [3.1, 2.2]]
    np.testing.assert_allclose(taken, expected, atol=1e-5)
    assert draws == [2, 1, 1]


@pytest.mark.parametrize("horizon", [1, 3])
def test_demonstrations_hold_the_actions_ahead_and_repeat_the_last(horizon):
    envs = make_envs("LaneChange-v0", 4)
    expert = load_expert("LaneChange-v0")
    obs, actions = bc_diffusion.collect_demonstrations(envs, expert, 6, 0, horizon)
    expert = load_expert("LaneChange-v0")  # the same choices once more
    _, single = bc_diffusion.collect_demonstrations(envs, expert, 6, 0, 1)
    chunks = actions.view(len(obs), horizon, 2)
    starts = [0, *(1 + i for i in range(len(obs) - 1) if obs[i + 1, 0] > obs[i, 0] + 0.5), len(obs)]
    assert len(starts) == 7  # six episodes: the distance to the obstacle jumps back where one begins
    for begin, end in itertools.pairwise(starts):
        for t in range(begin, end):
            for h in range(horizon):
                assert torch.equal(chunks[t, h], single[min(t + h, end - 1)])
