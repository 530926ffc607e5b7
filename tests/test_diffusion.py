"""The diffusion policy: schedule and both samplers against the published formulas."""

import math
from itertools import pairwise

import gymnasium as gym
import numpy as np
import pytest
import torch

import bc_diffusion

OBS_SPACE = gym.spaces.Box(-np.inf, np.inf, (3,), np.float32)


@pytest.fixture(autouse=True)
def seeded():
    torch.set_num_threads(1)
    torch.manual_seed(0)


def make(act_dim=2, **arguments):
    space = gym.spaces.Box(-1, 1, (act_dim,), np.float32)
    return bc_diffusion.Policy(OBS_SPACE, space, hidden_dim=16, **arguments)


# --- Training ---


def test_the_schedule_is_the_squared_cosine_and_noising_once_is_noising_step_by_step(double):
    f = [math.cos((t / 50 + 0.008) / 1.008 * math.pi / 2) ** 2 for t in range(51)]
    betas = [min(1 - f[t] / f[t - 1], 0.999) for t in range(1, 51)]  # Nichol & Dhariwal, (17)
    assert max(betas) == 0.999
    abar = make().abar
    assert abar.shape == (51,)
    assert abar[0] == 1
    scale = 1.0  # of q(x_t | x_0), by iterating x_t = sqrt(1 - beta) x_(t-1) + sqrt(beta) eps
    variance = 0.0
    for t, beta in enumerate(betas, start=1):
        scale *= math.sqrt(1 - beta)
        variance = (1 - beta) * variance + beta
        assert abar[t].sqrt().item() == pytest.approx(scale, rel=1e-9)
        assert 1 - abar[t].item() == pytest.approx(variance, rel=1e-9)


def noised(policy, predict, num=20_000):
    """x0, and the x_t and t that `predict` was asked about, with the loss."""
    chunks = torch.rand(num, 2) * torch.tensor([4.0, 0.2]) + torch.tensor([3.0, -5.0])
    policy.set_statistics(torch.zeros(num, 3), chunks)
    asked = []

    def record(net, obs, x, t):
        assert net is policy.net
        asked.append((x, t))
        return predict(x)

    policy.predict = record
    loss = policy.loss(torch.zeros(num, 3), chunks)
    x, t = asked[0]
    return 2 * (chunks - chunks.amin(0)) / (chunks.amax(0) - chunks.amin(0)) - 1, x, t, loss


def test_noise_is_standard_and_every_step_is_equally_likely(double):
    policy = make()
    x0, x, t, _ = noised(policy, lambda x: x)
    abar = policy.abar[t][:, None]
    eps = (x - abar.sqrt() * x0) / (1 - abar).sqrt()  # (1)
    assert eps.mean().abs() < 0.02
    assert eps.std().item() == pytest.approx(1, abs=0.02)
    assert eps.pow(4).mean().item() == pytest.approx(3, abs=0.2)
    assert np.corrcoef(eps[:, 0], x0[:, 0])[0, 1] == pytest.approx(0, abs=0.03)
    assert np.corrcoef(eps[:, 0], eps[:, 1])[0, 1] == pytest.approx(0, abs=0.03)
    frequencies = torch.bincount(t, minlength=51)[1:] / len(t)
    torch.testing.assert_close(frequencies, torch.full((50,), 0.02), rtol=0, atol=0.005)


def test_the_squared_error_is_weighted_by_the_signal_to_noise_ratio_from_1_to_20(double):
    policy = make()
    x0, x, t, loss = noised(policy, lambda x: 0.3 * x)
    total = 0.0
    weights = []
    for i in range(len(t)):
        abar = policy.abar[t[i]].item()
        weights.append(min(20.0, max(1.0, abar / (1 - abar))))
        total += weights[-1] * (x0[i] - 0.3 * x[i]).square().sum().item()  # (2)
    assert min(weights) == 1.0
    assert max(weights) == 20.0
    assert loss.item() == pytest.approx(total / len(t), rel=1e-9)


def test_fine_modes_train_on_little_noise_more_often_and_weigh_it_up_to_100(double):
    policy = make(fine_modes=True)
    x0, x, t, loss = noised(policy, lambda x: 0.3 * x)
    steps = [math.ceil(drawn**2 / 50) for drawn in range(1, 51)]  # as the sampler's
    expected = torch.bincount(torch.tensor(steps), minlength=51) / 50
    frequencies = torch.bincount(t, minlength=51) / len(t)
    torch.testing.assert_close(frequencies, expected, rtol=0, atol=0.01)

    abar = policy.abar[t]
    weights = torch.clamp(abar / (1 - abar), min=1, max=100)
    assert weights.max() == 100
    error = (x0 - 0.3 * x).square().sum(1)
    assert loss.item() == pytest.approx((weights * error).mean().item(), rel=1e-9)


def test_predicting_noise_has_a_plain_squared_error(double):
    policy = make(predict_noise=True)
    x0, x, t, loss = noised(policy, lambda x: 0.3 * x)
    abar = policy.abar[t][:, None]
    eps = (x - abar.sqrt() * x0) / (1 - abar).sqrt()
    assert loss.item() == pytest.approx((eps - 0.3 * x).square().sum(1).mean().item(), rel=1e-6)


def test_the_network_sees_the_observation_the_noised_action_and_the_step():
    policy = make()
    seen = []
    policy.net.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    t = torch.tensor([1, 50, 7])
    obs = torch.randn(3, 3)
    x = torch.randn(3, 2)
    policy.predict(policy.net, obs, x, t)
    abar = policy.abar[t][:, None]
    oracle = torch.cat([obs, x, abar.sqrt(), (1 - abar).sqrt()], dim=1)
    torch.testing.assert_close(seen[0], oracle)


# --- Samplers ---


def sample_with(policy, predict, seed=3):
    """A sample, with `predict` (x, t) in the network's place."""
    policy.predict = lambda net, obs, x, t: predict(x, int(t[0]))
    torch.manual_seed(seed)
    return policy.sample(torch.zeros(1000, 3)).flatten(1)


@pytest.mark.parametrize("num, last", [(6, 50), (7, 50), (25, 50), (50, 50), (1, 50), (10, 1000)])
def test_the_steps_are_quadratic_and_whole_and_apart(num, last):
    steps = make(num_diffusion_steps=last, num_inference_steps=num).inference_steps()
    assert len(steps) == num + 1
    assert steps[0] == last
    assert steps[-1] == 0
    assert all(t > r for t, r in pairwise(steps))
    for i, step in enumerate(reversed(steps)):
        assert step == max(i, math.ceil(last * i * i / num**2))


@pytest.mark.parametrize("predict_noise", [False, True])
def test_ddim_is_the_published_update(double, predict_noise):
    policy = make(predict_noise=predict_noise, num_inference_steps=7)
    out = sample_with(policy, lambda x, t: 1.5 * x + 0.002 * t)  # beyond 1, so that it is clipped
    torch.manual_seed(3)
    x = torch.randn(1000, 2)
    abar = policy.abar
    for t, r in pairwise(policy.inference_steps()):
        x0 = 1.5 * x + 0.002 * t
        if predict_noise:
            x0 = (x - (1 - abar[t]).sqrt() * x0) / abar[t].sqrt()
        x0 = x0.clamp(-1, 1)
        direction = (x - abar[t].sqrt() * x0) / (1 - abar[t]).sqrt()
        x = abar[r].sqrt() * x0 + (1 - abar[r]).sqrt() * direction  # Song et al., (12), sigma = 0
        torch.randn_like(x)  # drawn, and multiplied by 0
    torch.testing.assert_close(out, x, rtol=1e-9, atol=1e-9)


def test_eta_1_with_every_step_is_ddpm(double):
    policy = make(eta=1.0, num_inference_steps=50)
    out = sample_with(policy, lambda x, t: 0.5 * torch.tanh(x))
    torch.manual_seed(3)
    x = torch.randn(1000, 2)
    abar = policy.abar
    for t in range(50, 0, -1):
        x0 = 0.5 * torch.tanh(x)
        alpha = abar[t] / abar[t - 1]
        beta = 1 - alpha  # Ho et al., (7): the posterior q(x_(t-1) | x_t, x_0)
        of_x0 = abar[t - 1].sqrt() * beta / (1 - abar[t])
        of_x = alpha.sqrt() * (1 - abar[t - 1]) / (1 - abar[t])
        variance = (1 - abar[t - 1]) / (1 - abar[t]) * beta
        x = of_x0 * x0 + of_x * x + variance.sqrt() * torch.randn_like(x)
    torch.testing.assert_close(out, x, rtol=1e-7, atol=1e-7)


def test_eta_between_scales_the_standard_deviation_of_the_noise(double):
    policy = make(eta=0.5, num_inference_steps=7)
    out = sample_with(policy, lambda x, t: 0.5 * torch.tanh(x))
    torch.manual_seed(3)
    x = torch.randn(1000, 2)
    abar = policy.abar
    for t, r in pairwise(policy.inference_steps()):
        x0 = 0.5 * torch.tanh(x)
        ratio = (1 - abar[r]) / (1 - abar[t])
        sigma = 0.5 * ratio.sqrt() * (1 - abar[t] / abar[r]).sqrt()  # Song et al., (16)
        eps = (x - abar[t].sqrt() * x0) / (1 - abar[t]).sqrt()
        x = (
            abar[r].sqrt() * x0
            + (1 - abar[r] - sigma**2).sqrt() * eps
            + sigma * torch.randn(1000, 2)
        )
    torch.testing.assert_close(out, x, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_the_exact_denoiser_of_gaussian_data_recovers_its_moments(double, eta):
    policy = make(eta=eta, num_diffusion_steps=1000, num_inference_steps=1000)
    mean = 0.2
    std = 0.15
    abar = policy.abar

    def predict(x, t):  # E[x_0 | x_t] for x_0 ~ N(mean, std^2)
        gain = abar[t].sqrt() * std**2 / (abar[t] * std**2 + 1 - abar[t])
        return mean + gain * (x - abar[t].sqrt() * mean)

    out = sample_with(policy, predict)
    assert out.mean().item() == pytest.approx(mean, abs=0.01)
    assert out.std().item() == pytest.approx(std, rel=0.04)
