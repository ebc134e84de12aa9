"""How far the sampling grid moves is computed, told, and kept small where that is asked for."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from blurify import Plan, plan, verify
from blurify.errors import ArgumentError, GridWarning, PlanError
from blurify.planning.decision import OutputShift
from tests.conftest import as_graph as antialias


def same(stride: int, kernel_size: int = 1) -> nn.Conv2d:
    """A conv that gives what it is fed."""
    conv = nn.Conv2d(1, 1, kernel_size, stride, kernel_size // 2, bias=False)
    conv.weight.data.zero_()
    conv.weight.data[0, 0, kernel_size // 2, kernel_size // 2] = 1
    return conv


class Slices(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x[..., ::2, ::2]


class Grows(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(x, scale_factor=2)


def ramp(size: int) -> Tensor:
    """The place of every pixel, from left to right."""
    return torch.arange(float(size)).expand(1, 1, size, size).contiguous()


def measured(model: nn.Module, converted: nn.Module, size: int = 256) -> float:
    """How far the places that the outputs stand for have moved, away from the borders."""
    with torch.no_grad():
        moved = converted(ramp(size)) - model(ramp(size))
    middle = moved.shape[-1] // 2
    return float(moved[0, 0, middle, middle])


NETWORKS: dict[str, nn.Module] = {
    "convs": nn.Sequential(same(1), same(2), same(2, 3), same(2)),
    "pools": nn.Sequential(same(1), nn.AvgPool2d(2), nn.AvgPool2d(2, 2), same(2)),
    "averages of three": nn.Sequential(same(1), nn.AvgPool2d(3, 2, 1), same(2), nn.AvgPool2d(3, 2, 1)),
    "large averages": nn.Sequential(same(1), nn.AvgPool2d(6, 2), same(2)),
    "slices": nn.Sequential(same(1), Slices(), same(2), Slices()),
    "a stride of four": nn.Sequential(same(1), same(4), same(2)),
    "a stride of three": nn.Sequential(same(1), same(3), same(3)),
}
EXAMPLE = torch.zeros(1, 1, 256, 256)


@pytest.mark.parametrize("grid", ["published", "centered"])
@pytest.mark.parametrize("filt_size", [2, 3, 4])
@pytest.mark.parametrize("name", NETWORKS)
def test_shift_is_what_is_measured(name: str, filt_size: int, grid: str) -> None:
    model = NETWORKS[name]
    converted = antialias(model, filt_size, grid=grid, example_inputs=EXAMPLE)
    (shift,) = converted.meta["blurify"].outputs
    assert shift.output == "output"
    assert shift.pixels == pytest.approx((measured(model, converted),) * 2, abs=1e-3)
    assert verify(model, converted, example_inputs=EXAMPLE).ok


@pytest.mark.parametrize(("grid", "pixels"), [("published", 1.75), ("centered", 0.25)])
def test_strength_weakens_the_shift(grid: str, pixels: float) -> None:
    model = NETWORKS["convs"]
    converted = antialias(model, strength=0.5, grid=grid, example_inputs=EXAMPLE)
    (shift,) = converted.meta["blurify"].outputs
    assert shift.pixels == pytest.approx((pixels, pixels))
    assert measured(model, converted) == pytest.approx(pixels, abs=1e-3)


@pytest.mark.parametrize("name", NETWORKS)
def test_centered_keeps_the_last_map_within_a_pixel(name: str) -> None:
    (shift,) = plan(NETWORKS[name], grid="centered", example_inputs=EXAMPLE).outputs
    assert shift.most < 1


def test_shifts_go_through_upsampling() -> None:
    model = nn.Sequential(same(1), same(2), same(2), Grows(), Grows())
    assert plan(model, example_inputs=EXAMPLE).outputs[0].pixels == (1.5, 1.5)
    blurred = plan(model, upsample=True, example_inputs=EXAMPLE).outputs[0].pixels
    assert blurred == (1.5 + 0.5 + 1.0,) * 2 or blurred == (1.5 + 1.0 + 0.5,) * 2


class Detects(nn.Module):
    """Maps of two scales, each a row of boxes, and a class for the whole."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.fine, self.coarse, self.head = same(1), same(2), same(2), nn.Linear(1, 5)

    def forward(self, x: Tensor) -> Any:
        fine = self.fine(self.stem(x))
        coarse = self.coarse(fine)
        boxes = torch.cat([each.flatten(2).transpose(1, 2) for each in (fine, coarse)], 1)
        return {"boxes": boxes, "maps": (fine, coarse), "class": self.head(coarse.mean((2, 3)))}


def test_outputs_are_named_and_those_that_are_no_maps_left_out() -> None:
    made = plan(Detects(), example_inputs=EXAMPLE)
    assert {shift.output: shift.most for shift in made.outputs} == {
        "output['boxes']": 1.5,
        "output['maps'][0]": 0.5,
        "output['maps'][1]": 1.5,
    }
    assert "grid of output['boxes']: moved +1.5" in str(made)


@dataclass
class Sampled:
    """What a model of diffusion gives."""

    sample: Tensor


class Named(NamedTuple):
    sample: Tensor
    pooled: Tensor


@dataclass
class Listed(OrderedDict):  # type: ignore[type-arg]
    """As Hugging Face writes what its models give."""

    sample: Any = None

    def __post_init__(self) -> None:
        self["sample"] = self.sample


@pytest.mark.parametrize("kind", [Sampled, Listed, lambda x: Named(x, x.mean((2, 3))), lambda x: {"sample": x}])
def test_maps_are_found_in_outputs_of_any_class(kind: Any) -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(same(1), same(2), same(2), same(2))

        def forward(self, x: Tensor) -> Any:
            return kind(self.body(x))

    (shift,) = plan(Model(), example_inputs=EXAMPLE).outputs
    assert shift.most == 3.5


def test_positions_are_followed_through_products_over_channels() -> None:
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(same(1), same(2))
            self.weight = nn.Parameter(torch.ones(1, 3))

        def forward(self, x: Tensor) -> Tensor:
            return self.body(x).flatten(2).transpose(1, 2) @ self.weight

    (shift,) = plan(Tokens(), example_inputs=EXAMPLE).outputs
    assert shift.most == 0.5


def test_a_pixel_or_more_is_a_warning() -> None:
    model = NETWORKS["convs"]
    with pytest.warns(GridWarning, match=r"of output by 3.5 input pixels; use an odd filter \(filt_size=3\)"):
        antialias(model, example_inputs=EXAMPLE)
    assert not plan(model, 3, example_inputs=EXAMPLE).moved


def test_classifiers_have_no_grid_to_tell_of() -> None:
    made = plan(torchvision.models.resnet18())
    assert not made.outputs
    assert "grid" not in str(made)


def test_centered_residual_branches_have_one_side() -> None:
    model = torchvision.models.resnet18().eval()
    made = plan(model, grid="centered")
    sides = {d.site: d.side for d in made.rewritten}
    assert sides["layer3.0.conv1"] == sides["layer3.0.downsample.0"]
    assert set(sides.values()) == {"both"}  # on a grid of two pixels no choice of sides moves by less than one
    assert verify(model, made.apply(model)).ok


def test_plans_keep_it_as_text() -> None:
    made = plan(NETWORKS["convs"], grid="centered", example_inputs=EXAMPLE)
    assert Plan.from_json(made.to_json()) == made
    assert "4 left" in str(made)
    old = Plan.from_json('{"version": 1, "decisions": []}')
    assert old == Plan(())
    for text in ('{"version": 1, "decisions": [], "outputs": 3}', '{"version": 1, "decisions": [], "outputs": [{}]}'):
        with pytest.raises(PlanError, match="outputs"):
            Plan.from_json(text)
    assert OutputShift("output", (-2.0, 1.0)).most == 2


def test_an_unknown_grid_is_refused() -> None:
    with pytest.raises(ArgumentError, match="grid must be one of 'published', 'centered', got 'central'"):
        plan(NETWORKS["convs"], grid="central")
