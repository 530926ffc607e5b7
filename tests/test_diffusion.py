"""Diffusion and flow matching: path, loss and samplers against published formulas, and chunks."""

import importlib
import math
from itertools import pairwise

import gymnasium as gym
import numpy as np
import pytest
import torch

from tests.test_policies import make_policy


@pytest.fixture(autouse=True)
def seeded():
    torch.set_num_threads(1)
    torch.manual_seed(0)


@pytest.fixture(params=["bc_diffusion", "bc_flow"])
def script(request):
    return request.param


def signal_and_noise(policy, t):
    """What the path multiplies actions and noise by, at steps (N,) or times (N, 1)."""
    if not hasattr(policy, "abar"):
        return t, 1 - t
    abar = policy.abar[t][:, None]
    return abar.sqrt(), (1 - abar).sqrt()


def asked_by_the_loss(policy, num=20_000):
    """Actions a and noise eps, the x and t that the loss asked about, and its answer to 0.3 x."""
    chunks = torch.rand(num, 1, 2) * torch.tensor([4.0, 0.2]) + torch.tensor([3.0, -5.0])
    policy.set_statistics(torch.zeros(num, 3), chunks)
    asked = []

    def forward(obs, x, t):
        asked.append((x, t))
        return 0.3 * x

    policy.forward = forward
    loss = policy.loss(torch.zeros(num, 3), chunks).item()
    [(x, t)] = asked
    low, high = chunks.amin((0, 1)), chunks.amax((0, 1))
    a = 2 * (chunks[:, 0] - low) / (high - low) - 1
    signal, noise = signal_and_noise(policy, t)
    return a, (x - signal * a) / noise, x, t, loss


def sample_with(policy, answer, num=1000):
    """Samples, with `answer` (x, t) in the network's place, and the noise that they start from."""
    policy.forward = lambda obs, x, t: answer(x, t)
    torch.manual_seed(3)
    out = policy.sample(torch.zeros(num, 3)).flatten(1)
    torch.manual_seed(3)
    return out, torch.randn(num, 2)


def test_noise_is_standard_and_every_step_is_equally_likely(double, script):
    a, eps, _, t, _ = asked_by_the_loss(make_policy(script))
    assert eps.mean().abs() < 0.02
    assert eps.std().item() == pytest.approx(1, abs=0.02)
    assert eps.pow(4).mean().item() == pytest.approx(3, abs=0.2)
    assert np.corrcoef(eps[:, 0], a[:, 0])[0, 1] == pytest.approx(0, abs=0.03)
    assert np.corrcoef(eps[:, 0], eps[:, 1])[0, 1] == pytest.approx(0, abs=0.03)
    time = t.flatten() if script == "bc_flow" else (t - 0.5) / 50
    assert 0 <= time.min() < time.max() <= 1
    shares = torch.histc(time, 50, 0, 1) / len(time)
    torch.testing.assert_close(shares, torch.full((50,), 0.02), rtol=0, atol=0.005)


def test_the_network_sees_the_observation_the_noised_action_and_the_time(script):
    policy = make_policy(script)
    seen = []
    policy.net.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    t = torch.rand(3, 1) if script == "bc_flow" else torch.tensor([1, 50, 7])
    time = [t] if script == "bc_flow" else signal_and_noise(policy, t)
    obs = torch.randn(3, 3)
    x = torch.randn(3, 2)
    policy(obs, x, t)
    torch.testing.assert_close(seen[0], torch.cat([obs, x, *time], dim=1))


MANY = {"num_diffusion_steps": 200, "num_inference_steps": 200}
EXACT = [  # what is left of a mode of 0.2 of two, and of one of 0.1 of four
    ("bc_diffusion", {"num_inference_steps": 8}, 0.178, 0.066),
    ("bc_diffusion", {"num_inference_steps": 16}, 0.189, 0.082),
    ("bc_diffusion", MANY, 0.2, 0.098),
    ("bc_diffusion", MANY | {"sampler": "ddpm"}, 0.197, 0.096),
    ("bc_flow", {"num_inference_steps": 8}, 0.173, 0.059),
    ("bc_flow", {"num_inference_steps": 16}, 0.187, 0.078),
    ("bc_flow", {"num_inference_steps": 200}, 0.2, 0.098),
]


@pytest.mark.parametrize("script, flags, of_two, of_four", EXACT)
def test_an_exact_network_recovers_the_modes_in_many_steps(double, script, flags, of_two, of_four):
    """Few steps favour the larger modes."""
    policy = make_policy(script, **flags)
    for share, std, centres, masses in [
        (of_two, 0.1, [-0.5, 0.5], [0.2, 0.8]),
        (of_four, 0.05, [-0.75, -0.25, 0.25, 0.75], [0.1, 0.2, 0.3, 0.4]),
    ]:
        centres = torch.tensor(centres)
        masses = torch.tensor(masses)

        def answer(x, t, std=std, centres=centres, masses=masses):
            """E[a | x] in each dimension, for a ~ sum_k masses_k N(centres_k, std^2)."""
            signal, noise = (scale[..., None] for scale in signal_and_noise(policy, t))
            variance = (std * signal).square() + noise.square()
            z = x[..., None] - signal * centres
            r = (masses.log() - 0.5 * z.square() / variance).softmax(-1)
            return (r * (centres + std**2 * signal / variance * z)).sum(-1)

        out, _ = sample_with(policy, answer, num=10_000)
        mode = (out[..., None] - centres).abs().argmin(-1)
        assert (mode == 0).double().mean().item() == pytest.approx(share, abs=0.008)
        if len(masses) == 2:  # modes that are closer together keep a little between them
            assert (out - centres[mode]).std().item() == pytest.approx(std, rel=0.12)


# --- Diffusion ---


def test_the_schedule_is_the_squared_cosine_and_noising_once_is_noising_step_by_step(double):
    f = [math.cos((t / 50 + 0.008) / 1.008 * math.pi / 2) ** 2 for t in range(51)]
    betas = [min(1 - f[t] / f[t - 1], 0.999) for t in range(1, 51)]  # Nichol & Dhariwal, (17)
    assert max(betas) == 0.999
    abar = make_policy("bc_diffusion").abar
    assert abar.shape == (51,)
    assert abar[0] == 1
    scale = 1.0  # of q(x_t | x_0), by iterating x_t = sqrt(1 - beta) x_(t-1) + sqrt(beta) eps
    variance = 0.0
    for t, beta in enumerate(betas, start=1):
        scale *= math.sqrt(1 - beta)
        variance = (1 - beta) * variance + beta
        assert abar[t].sqrt().item() == pytest.approx(scale, rel=1e-9)
        assert 1 - abar[t].item() == pytest.approx(variance, rel=1e-9)


def test_the_squared_error_is_weighted_by_the_signal_to_noise_ratio_from_1_to_20(double):
    policy = make_policy("bc_diffusion")
    a, _, x, t, loss = asked_by_the_loss(policy)
    weights = torch.tensor([min(20.0, max(1.0, r / (1 - r))) for r in policy.abar[t].tolist()])
    assert weights.min() == 1
    assert weights.max() == 20
    oracle = (weights * (a - 0.3 * x).square().sum(1)).mean()  # (2)
    assert loss == pytest.approx(oracle.item(), rel=1e-9)


def test_predicting_noise_has_a_plain_squared_error(double):
    _, eps, x, _, loss = asked_by_the_loss(make_policy("bc_diffusion", predict_noise=True))
    assert loss == pytest.approx((eps - 0.3 * x).square().sum(1).mean().item(), rel=1e-6)


@pytest.mark.parametrize("num, last", [(6, 50), (7, 50), (25, 50), (50, 50), (1, 50), (10, 1000)])
def test_the_steps_are_quadratic_and_whole_and_apart(num, last):
    flags = {"num_diffusion_steps": last, "num_inference_steps": num}
    steps = make_policy("bc_diffusion", **flags).inference_steps()
    assert len(steps) == num + 1
    assert steps[0] == last
    assert steps[-1] == 0
    assert all(t > r for t, r in pairwise(steps))
    for i, step in enumerate(reversed(steps)):
        assert step == max(i, math.ceil(last * i * i / num**2))


@pytest.mark.parametrize("predict_noise", [False, True])
@pytest.mark.parametrize("sampler, eta", [("ddim", 0.0), ("ddpm", 1.0)])
def test_few_steps_are_the_published_update(double, sampler, eta, predict_noise):
    flags = {"sampler": sampler, "predict_noise": predict_noise, "num_inference_steps": 7}
    policy = make_policy("bc_diffusion", **flags)
    abar = policy.abar
    out, x = sample_with(policy, lambda x, t: 1.5 * x + 0.002 * t[0])  # beyond 1, so clipped
    for t, r in pairwise(policy.inference_steps()):
        x0 = 1.5 * x + 0.002 * t
        if predict_noise:
            x0 = (x - (1 - abar[t]).sqrt() * x0) / abar[t].sqrt()
        x0 = x0.clamp(-1, 1)
        direction = (x - abar[t].sqrt() * x0) / (1 - abar[t]).sqrt()
        ratio = (1 - abar[r]) / (1 - abar[t])
        sigma = eta * ratio.sqrt() * (1 - abar[t] / abar[r]).sqrt()  # Song et al., (16)
        x = abar[r].sqrt() * x0 + (1 - abar[r] - sigma**2).clamp(0).sqrt() * direction  # (12)
        x = x + sigma * torch.randn(1000, 2)
    torch.testing.assert_close(out, x, rtol=1e-7, atol=1e-7)


def test_ddpm_with_every_step_is_the_posterior_of_ho_et_al(double):
    policy = make_policy("bc_diffusion", sampler="ddpm", num_inference_steps=50)
    abar = policy.abar
    out, x = sample_with(policy, lambda x, t: 0.5 * torch.tanh(x))
    for t in range(50, 0, -1):
        x0 = 0.5 * torch.tanh(x)
        alpha = abar[t] / abar[t - 1]
        beta = 1 - alpha  # Ho et al., (7): the posterior q(x_(t-1) | x_t, x_0)
        of_x0 = abar[t - 1].sqrt() * beta / (1 - abar[t])
        of_x = alpha.sqrt() * (1 - abar[t - 1]) / (1 - abar[t])
        variance = (1 - abar[t - 1]) / (1 - abar[t]) * beta
        x = of_x0 * x0 + of_x * x + variance.sqrt() * torch.randn_like(x)
    torch.testing.assert_close(out, x, rtol=1e-7, atol=1e-7)


# --- Flow matching ---


def test_the_loss_is_the_squared_error_of_the_velocity(double):
    a, eps, x, t, loss = asked_by_the_loss(make_policy("bc_flow"))
    velocity = (0.3 * x - x) / (1 - t)  # (2)
    error = (velocity - (a - eps)).square().sum(1)  # (3)
    bound = ((1 - t[:, 0]) / 0.2).clamp(max=1).square()  # where 1 - t counts as 0.2
    assert bound.min() < 1e-3
    assert loss == pytest.approx((bound * error).mean().item(), rel=1e-6)


@pytest.mark.parametrize("num", [1, 2, 8, 25])
def test_the_times_go_from_0_to_1_and_the_steps_shrink_evenly(num):
    times = np.array(make_policy("bc_flow", num_inference_steps=num).times())
    steps = np.diff(times)
    assert times[0] == 0
    assert times[-1] == 1
    np.testing.assert_allclose(np.diff(steps), -2 / num**2)
    np.testing.assert_allclose(steps[-1], 1 / num**2)


def test_the_sampler_takes_euler_steps_along_the_velocity(double):
    policy = make_policy("bc_flow", num_inference_steps=7)
    out, x = sample_with(policy, lambda x, t: torch.tanh(x) + t)
    times = policy.times()
    for k in range(7):
        velocity = (torch.tanh(x) + times[k] - x) / (1 - times[k])
        x = x + (times[k + 1] - times[k]) * velocity
    torch.testing.assert_close(out, x, rtol=1e-9, atol=1e-9)


# --- Chunks of actions, in both ---


def test_the_range_of_actions_becomes_minus_one_to_one_and_constant_ones_keep_scale_1(script):
    policy = make_policy(script, gym.spaces.Box(-9, 9, (3,)), horizon=2)
    chunks = [[[1.0, -3.0, 7.0], [5.0, -1.0, 7.0]], [[2.0, -2.0, 7.0], [4.0, -2.0, 7.0]]]
    policy.set_statistics(torch.randn(2, 3), torch.tensor(chunks))
    assert policy.action_centre.tolist() == [3.0, -2.0, 7.0]
    assert policy.action_scale.tolist() == [2.0, 1.0, 1.0]


def test_a_chunk_has_its_place_in_each_dimension_in_the_environments_units(script):
    flags = {"horizon": 3, "action_horizon": 3, "num_inference_steps": 1}
    policy = make_policy(script, bound=9.0, **flags)
    chunks = torch.rand(100, 3, 2) * torch.tensor([4.0, 0.2]) + torch.tensor([3.0, -5.0])
    policy.set_statistics(torch.zeros(100, 3), chunks)
    flat = torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5, -1.0])  # action by action
    policy.forward = lambda obs, x, t: flat.expand_as(x)
    low, high = chunks.amin((0, 1)), chunks.amax((0, 1))
    expected = low + (high - low) * (flat.view(3, 2) + 1) / 2
    torch.testing.assert_close(policy.sample(torch.zeros(7, 3)), expected.expand(7, -1, -1))
    taken = np.stack([policy.act(np.zeros((7, 3))) for _ in range(3)], axis=1)
    np.testing.assert_allclose(taken, expected.expand(7, -1, -1), rtol=1e-5)


def counting_policy(script):
    """A policy that executes three of the four actions of each chunk; chunk k holds k.0 to k.3."""
    policy = make_policy(script, gym.spaces.Box(-1, 1, (1,)), horizon=4, action_horizon=3)
    draws = []

    def sample(obs):
        draws.append(len(obs))
        chunk = (len(draws) + 0.1 * torch.arange(4.0)) / 10
        return chunk.view(1, 4, 1).expand(len(obs), -1, -1)

    policy.sample = sample
    return policy, draws


def test_a_chunk_is_executed_in_order_before_the_next_is_drawn(script):
    policy, draws = counting_policy(script)
    taken = [(10 * policy.act(np.zeros((2, 3)))).tolist() for _ in range(5)]
    expected = [[[k], [k]] for k in (1.0, 1.1, 1.2, 2.0, 2.1)]
    np.testing.assert_allclose(taken, expected, atol=1e-5)
    assert draws == [2, 2]


def test_episodes_begin_with_a_chunk_of_their_own_in_the_evaluation_too(script):
    module = importlib.import_module(script)
    args = module.Args(env_id="Pendulum-v1", max_episode_steps=4)
    envs = module.make_envs(args, 2)
    policy, _ = counting_policy(script)
    policy.queue.append(torch.zeros(2, 1))  # left over from earlier episodes
    episodes = module.rollout(envs, policy.act, 4, seed=0, at_start=policy.queue.clear)
    firsts = [10 * episode.actions[0, 0] for episode in episodes]
    np.testing.assert_allclose(firsts, [1.0, 1.0, 3.0, 3.0], atol=1e-5)
    np.testing.assert_allclose(10 * episodes[2].actions[:, 0], [3.0, 3.1, 3.2, 4.0], atol=1e-5)

    results = []
    for left_over in ([], [torch.zeros(2, 1)]):
        policy, _ = counting_policy(script)
        policy.queue.extend(left_over)
        results.append(module.evaluate(args, envs, policy, 2))
    assert results[0] == results[1]


@pytest.mark.parametrize("horizon", [1, 3])
def test_demonstrations_hold_the_actions_ahead_and_repeat_the_last(script, horizon):
    module = importlib.import_module(script)
    episodes = []
    for length, first in ((4, 10), (1, 20), (2, 30)):
        obs = first + np.arange(length, dtype=float)[:, None]  # observation t is first + t,
        actions = -np.repeat(obs, 2, axis=1)  # and its action -(first + t), twice
        episodes.append(module.Episode(obs, actions, np.zeros(length), {}))
    obs, actions = module.to_tensors(episodes, horizon, "cpu")
    assert obs.flatten().tolist() == [10, 11, 12, 13, 20, 30, 31]
    assert actions.shape == (7, horizon, 2)
    lasts = [13, 13, 13, 13, 20, 31, 31]
    for t, last in enumerate(lasts):
        for h in range(horizon):
            expected = -min(obs[t, 0].item() + h, last)
            assert actions[t, h].tolist() == [expected, expected]
