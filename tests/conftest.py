"""What several files of tests use."""

import gymnasium as gym
import pytest
import torch

gym.logger.min_level = gym.logger.ERROR  # many environments here are careless on purpose


@pytest.fixture
def double():
    """Formulas are compared in 64 bits."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)
