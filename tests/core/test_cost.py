"""What a network costs, against counts by hand."""

from __future__ import annotations

import pytest
import torch
import torchvision
from torch import Tensor, nn

from blurify import antialias
from blurify.measure.cost import cost, milliseconds


def test_counts_by_hand() -> None:
    x = torch.zeros(2, 3, 16, 16)
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.ReLU(), nn.Conv2d(8, 4, 1, bias=False))
    found = cost(model, x)
    assert found.macs == 2 * 256 * (3 * 8 * 9 + 8 * 4)
    assert found.parameters == 3 * 8 * 9 + 8 * 4
    # The conv's output is there still while the activation makes its own.
    assert found.activations == 2 * 256 * 4 * (3 + 8 + 8)
    model[1].inplace = True
    assert cost(model, x).activations == 2 * 256 * 4 * (3 + 8 + 4)


def test_a_classifiers_weight_is_no_map() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10_000))
    assert cost(model, torch.zeros(1, 3, 8, 8)).activations < 4 * 64 * (3 + 4) + 4 * 10_000


def test_views_take_no_memory_and_shared_weights_count_once() -> None:
    class Views(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = nn.Linear(16, 16)
            self.other = nn.Linear(16, 16)
            self.other.weight = self.one.weight

        def forward(self, x: Tensor) -> Tensor:
            return x.transpose(1, 2).reshape(1, 16, 2)[:, 1:].flatten(1)

    x = torch.zeros(1, 2, 16)
    found = cost(Views(), x)
    assert found.parameters == 16 * 16 + 32
    assert found.activations <= 2 * 4 * 32
    assert cost(nn.Identity(), x).activations == 4 * 32


def test_a_real_network_and_its_conversion() -> None:
    model, x = torchvision.models.resnet18(), torch.zeros(1, 3, 224, 224)
    before, after = cost(model, x), cost(antialias(model), x)
    assert (before.macs, before.parameters) == (1_814_073_344, 11_689_512)
    assert after.parameters == before.parameters
    assert after.macs > before.macs
    assert after.activations > before.activations


def test_what_looks_at_values_is_counted_by_running_it() -> None:
    class Fussy(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * 2 if float(x.sum()) > 0 else x

    assert cost(Fussy(), torch.ones(1, 1, 4, 4)).activations >= 2 * 64


def test_times_leave_models_as_found() -> None:
    models = {"a": nn.Conv2d(3, 4, 3).train(), "b": nn.Identity()}
    found = milliseconds(models, torch.zeros(1, 3, 32, 32), rounds=3)
    assert models["a"].training
    assert found.keys() == models.keys()
    assert found["a"] > found["b"] >= 0 or found["a"] == pytest.approx(found["b"], abs=1)
