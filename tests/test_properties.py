"""On any finite data, the loss is finite, and actions have the right shape and bounds."""

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.test_policies import ALL_SCRIPTS, fit, make_policy

FEW = settings(
    max_examples=12,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
MAGNITUDES = st.sampled_from([0.0, 1e-12, 1e-3, 1.0, 1e4, 1e8])


def numbers(seed, shape, magnitude, offset):
    """Numbers of one magnitude around an offset; a magnitude of 0 makes them constant."""
    x = offset + magnitude * np.random.default_rng(seed).normal(size=shape)
    return torch.as_tensor(x, dtype=torch.float32)


@pytest.mark.parametrize("script", ALL_SCRIPTS)
@FEW
@given(
    seed=st.integers(0, 2**32 - 1),
    obs_dim=st.sampled_from([1, 3, 1000]),
    act_dim=st.sampled_from([1, 2, 7]),
    num=st.sampled_from([1, 2, 33]),
    batch=st.sampled_from([1, 5]),
    scales=st.tuples(MAGNITUDES, MAGNITUDES),
    offset=st.sampled_from([0.0, -1.0, 1e4]),
    unseen=MAGNITUDES,
)
def test_any_finite_data(script, seed, obs_dim, act_dim, num, batch, scales, offset, unseen):
    torch.manual_seed(0)
    torch.set_num_threads(1)
    obs = numbers(seed, (num, obs_dim), scales[0], offset)
    actions = numbers(seed + 1, (num, act_dim), scales[1], offset)
    low = np.full(act_dim, -2.0) - np.arange(act_dim)
    high = np.linspace(0.5, 3.0, act_dim)
    policy = make_policy(script, obs_dim=obs_dim, low=low, high=high, hidden_dim=16)
    losses = fit(policy, obs, actions, 3)
    assert np.isfinite(losses).all()
    assert all(torch.isfinite(parameter).all() for parameter in policy.parameters())

    for states in (obs[:batch], numbers(seed, (batch, obs_dim), unseen, offset)):
        chosen = policy.act(states.numpy())
        assert chosen.shape == (len(states), act_dim)
        assert np.isfinite(chosen).all()
        assert (chosen >= low.astype(np.float32)).all()
        assert (chosen <= high.astype(np.float32)).all()
