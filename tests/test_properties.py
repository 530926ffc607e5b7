"""Whatever finite data comes in, every policy's loss is finite, and its actions have the right shape and bounds."""

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmark.run import SCRIPTS
from tests.test_policies import fit, make_policy

SMALL = {"hidden_dim": 16}
FEW = settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
MAGNITUDES = st.sampled_from([0.0, 1e-12, 1e-3, 1.0, 1e4, 1e8])


def numbers(seed, shape, magnitude, offset):
    """Numbers of one magnitude round an offset; a magnitude of 0 makes them constant."""
    return torch.as_tensor(offset + magnitude * np.random.default_rng(seed).normal(size=shape), dtype=torch.float32)


@pytest.mark.parametrize("script", [*SCRIPTS, "dagger", "hg_dagger"])
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
    obs, actions = (
        numbers(seed, (num, obs_dim), scales[0], offset),
        numbers(seed + 1, (num, act_dim), scales[1], offset),
    )
    low, high = np.full(act_dim, -2.0) - np.arange(act_dim), np.linspace(0.5, 3.0, act_dim)
    policy = make_policy(script, obs_dim=obs_dim, low=low, high=high, **SMALL)
    losses = fit(policy, obs, actions, 3)
    assert np.isfinite(losses).all()
    assert all(torch.isfinite(parameter).all() for parameter in policy.parameters())
    for chosen in (policy.act(obs[:batch]), policy.act(numbers(seed, (batch, obs_dim), unseen, offset))):
        assert chosen.shape[1:] == (act_dim,) and torch.isfinite(chosen).all()
        assert (chosen >= torch.as_tensor(low, dtype=torch.float32)).all()
        assert (chosen <= torch.as_tensor(high, dtype=torch.float32)).all()
