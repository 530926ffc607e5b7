"""The flow policy: its loss and its sampler against the published formulas."""

import gymnasium as gym
import numpy as np
import pytest
import torch

import bc_flow

OBS_SPACE = gym.spaces.Box(-np.inf, np.inf, (3,), np.float32)


@pytest.fixture(autouse=True)
def seeded():
    torch.set_num_threads(1)
    torch.manual_seed(0)


def make(**arguments):
    space = gym.spaces.Box(-1, 1, (2,), np.float32)
    return bc_flow.Policy(OBS_SPACE, space, hidden_dim=16, **arguments)


def points_on_lines(policy, predict, num=20_000):
    """The scaled actions, and the x_t and t that `predict` was asked about, with the loss."""
    actions = torch.rand(num, 2) * torch.tensor([4.0, 0.2]) + torch.tensor([3.0, -5.0])
    policy.set_statistics(torch.zeros(num, 3), actions)
    asked = []

    def record(net, obs, x, t):
        assert net is policy.net
        asked.append((x, t))
        return predict(x)

    policy.predict = record
    loss = policy.loss(torch.zeros(num, 3), actions)
    x, t = asked[0]
    span = actions.amax(0) - actions.amin(0)
    return 2 * (actions - actions.amin(0)) / span - 1, x, t, loss


def test_points_lie_on_straight_lines_from_standard_noise_at_even_times(double):
    actions, x, t, _ = points_on_lines(make(), lambda x: x)
    assert t.shape == (len(x), 1)
    assert 0 <= t.min() < 0.001
    assert 0.999 < t.max() <= 1
    assert t.mean().item() == pytest.approx(0.5, abs=0.01)
    assert t.var().item() == pytest.approx(1 / 12, abs=0.003)
    early = t[:, 0] < 0.9
    eps = ((x - t * actions) / (1 - t))[early]  # (1)
    assert eps.mean().abs() < 0.02
    assert eps.std().item() == pytest.approx(1, abs=0.02)
    assert eps.pow(4).mean().item() == pytest.approx(3, abs=0.2)
    assert np.corrcoef(eps[:, 0], actions[early, 0])[0, 1] == pytest.approx(0, abs=0.03)
    assert np.corrcoef(eps[:, 0], eps[:, 1])[0, 1] == pytest.approx(0, abs=0.03)


def test_the_loss_is_the_squared_error_of_the_velocity(double):
    actions, x, t, loss = points_on_lines(make(), lambda x: 0.3 * x)
    total = 0.0
    for i in range(len(t)):
        weight = min(5.0, 1 / (1 - t[i].item()))  # in place of 1 / (1 - t)
        total += (weight * (0.3 * x[i] - actions[i])).square().sum().item()  # (3)
    assert loss.item() == pytest.approx(total / len(t), rel=1e-9)

    # Where the weight is not bounded, that is the distance of the velocities.
    early = t[:, 0] < 0.8
    eps = (x - t * actions) / (1 - t)
    velocity = (0.3 * x - x) / (1 - t)  # (2)
    expected = (velocity - (actions - eps))[early]
    torch.testing.assert_close(((0.3 * x - actions) / (1 - t))[early], expected)


def test_the_network_sees_the_observation_the_point_and_the_time():
    policy = make()
    seen = []
    policy.net.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    obs = torch.randn(3, 3)
    x = torch.randn(3, 2)
    t = torch.rand(3, 1)
    policy.predict(policy.net, obs, x, t)
    torch.testing.assert_close(seen[0], torch.cat([obs, x, t], dim=1))


# --- The sampler ---


def sample_with(policy, predict):
    """A sample, with `predict` (x, t) in the network's place."""
    policy.predict = lambda net, obs, x, t: predict(x, t)
    torch.manual_seed(3)
    return policy.sample(torch.zeros(20_000, 3)).flatten(1)


@pytest.mark.parametrize("num", [1, 2, 8, 25])
def test_the_times_go_from_0_to_1_and_the_steps_shrink_evenly(num):
    times = np.array(make(num_inference_steps=num).times())
    steps = np.diff(times)
    assert times[0] == 0
    assert times[-1] == 1
    assert (steps > 0).all()
    np.testing.assert_allclose(np.diff(steps), -2 / num**2)
    np.testing.assert_allclose(steps[-1], 1 / num**2)


def test_the_sampler_takes_euler_steps_along_the_velocity(double):
    policy = make(num_inference_steps=7)
    out = sample_with(policy, lambda x, t: torch.tanh(x) + t)
    torch.manual_seed(3)
    x = torch.randn(20_000, 2)
    times = policy.times()
    for k in range(7):
        velocity = (torch.tanh(x) + times[k] - x) / (1 - times[k])
        x = x + (times[k + 1] - times[k]) * velocity
    torch.testing.assert_close(out, x, rtol=1e-9, atol=1e-9)


def test_the_exact_flow_of_gaussian_data_recovers_mean_and_covariance(double):
    policy = make(num_inference_steps=400)
    mean = torch.tensor([0.2, -0.4])
    covariance = torch.tensor([[0.09, 0.04], [0.04, 0.05]])

    def predict(x, t):  # E[a | x_t] for a ~ N(mean, covariance)
        t = t[0, 0]
        gain = t * covariance @ torch.linalg.inv(t**2 * covariance + (1 - t) ** 2 * torch.eye(2))
        return mean + (x - t * mean) @ gain.T

    out = sample_with(policy, predict)
    torch.testing.assert_close(out.mean(0), mean, rtol=0, atol=0.01)
    torch.testing.assert_close(torch.cov(out.T), covariance, rtol=0, atol=0.004)
