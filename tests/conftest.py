"""Shared helpers: real networks with statistics that matter, and one way to compare outputs."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

# Small tensors gain nothing from a second thread, and on a busy machine threads that wait for each other cost minutes.
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def randomize_statistics(model: nn.Module) -> nn.Module:
    """Give every batch-norm statistics and affine values that would show a misplaced norm."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            if module.running_mean is not None:
                module.running_mean.uniform_(-0.2, 0.2)
                module.running_var.uniform_(0.7, 1.3)
            if module.affine:
                nn.init.uniform_(module.weight, 0.7, 1.3)
                nn.init.uniform_(module.bias, -0.2, 0.2)
    return model


def relative_error(expected: Tensor, actual: Tensor) -> float:
    """Largest difference over the largest expected value; equal shapes, and values not all alike, are required."""
    assert expected.shape == actual.shape
    assert expected.std() > 0
    return float((expected - actual).abs().max() / expected.abs().max())


def run(model: nn.Module, x: Tensor) -> Tensor:
    """The first output of `model` in eval mode, without gradients."""
    model.eval()
    with torch.no_grad():
        out = model(x)
    return out if isinstance(out, Tensor) else out[0]


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--regenerate` rewrites the golden plans instead of comparing with them."""
    parser.addoption("--regenerate", action="store_true", help="rewrite the golden plans")
