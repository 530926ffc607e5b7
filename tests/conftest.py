"""What several files of tests use."""

import pytest
import torch


@pytest.fixture
def double():
    """Formulas are compared in 64 bits."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)
