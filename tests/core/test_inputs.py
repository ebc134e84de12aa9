"""What goes into a model and comes out of it keeps its form, whichever front-end records it."""

from __future__ import annotations

import pickle
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from blurify import antialias, plan, verify
from blurify.errors import ArgumentError, ArgumentTypeError
from blurify.graph.module import TracedModule
from blurify.tracing.inputs import input_size
from tests.conftest import relative_error


class Net(nn.Module):
    """A stem and a strided conv of two images, one conv for both."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 3, 2, 1)

    def maps(self, x: Tensor) -> Tensor:
        return self.conv(self.stem(x)).relu()


def picture(batch: int = 2) -> Tensor:
    return torch.randn(batch, 3, 16, 16)


class TwoPictures(Net):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.maps(x) - self.maps(y)


class ByKeyword(Net):
    def forward(self, *, x: Tensor, scale: Tensor | None = None) -> Tensor:
        return self.maps(x) if scale is None else self.maps(x) * scale


class WithFlag(Net):
    def forward(self, x: Tensor, twice: bool = False, factor: float = 0.5) -> Tensor:
        return self.maps(x) * factor + (self.maps(x) if twice else 0)


class OfDict(Net):
    def forward(self, batch: dict[str, Any]) -> Tensor:
        return self.maps(batch["image"]) * batch["more"]["weight"]


class OfList(Net):
    def forward(self, pictures: list[Tensor]) -> Tensor:
        return self.maps(pictures[0]) + self.maps(pictures[1])


class OfTuple(Net):
    def forward(self, pair: tuple[Tensor, Tensor], mask: Tensor) -> Tensor:
        first, second = pair
        return (self.maps(first) + self.maps(second)) * mask


def weights() -> Tensor:
    return torch.rand(2, 1, 8, 8)


# The model, its positional and its keyword arguments, and the sites.
INPUTS: dict[str, tuple[Callable[[], nn.Module], Callable[[], tuple[Any, dict[str, Any]]], list[str]]] = {
    "two images": (TwoPictures, lambda: ((picture(), picture()), {}), ["conv", "conv_1"]),
    "one of two by keyword": (TwoPictures, lambda: ((picture(),), {"y": picture()}), ["conv", "conv_1"]),
    "both by keyword": (TwoPictures, lambda: ((), {"y": picture(), "x": picture()}), ["conv", "conv_1"]),
    "keyword only": (ByKeyword, lambda: ((), {"x": picture()}), ["conv"]),
    "keyword only, optional": (ByKeyword, lambda: ((), {"x": picture(), "scale": weights()}), ["conv"]),
    "defaults": (WithFlag, lambda: ((picture(),), {}), ["conv"]),
    "a nested dict": (OfDict, lambda: (({"image": picture(), "more": {"weight": weights()}},), {}), ["conv"]),
    "a list": (OfList, lambda: (([picture(), picture()],), {}), ["conv", "conv_1"]),
    "a tuple and a mask": (OfTuple, lambda: (((picture(), picture()), weights()), {}), ["conv", "conv_1"]),
}


@pytest.mark.parametrize("name", INPUTS)
def test_inputs_of_every_form(name: str) -> None:
    make, given, sites = INPUTS[name]
    model, (args, kwargs) = make().eval(), given()
    converted = antialias(model, example_inputs=args or None, example_kwargs=kwargs)
    assert [d.site for d in converted.meta["blurify"].rewritten] == sites
    assert converted.meta["front_end"] == "torch.fx"
    verdict = verify(model, converted, args or None, kwargs)
    assert verdict.ok, str(verdict)
    assert [s.site for s in verdict.shapes] == sites
    with torch.no_grad():
        expected, actual = model(*args, **kwargs), converted(*args, **kwargs)
    assert relative_error(expected, actual) > 1e-3


def test_a_flag_that_the_example_gives_is_an_argument_of_the_result() -> None:
    model = WithFlag().eval()
    # `twice` decides which graph there is, so it takes its default; `factor` is passed through.
    converted = antialias(model, example_kwargs={"x": picture(), "factor": 2.0})
    x = picture()
    with torch.no_grad():
        one, two = (converted(x, factor=factor) for factor in (1.0, 2.0))
    assert relative_error(one * 2, two) <= 1e-6


class Pair(NamedTuple):
    maps: Tensor
    mean: Tensor


@dataclass
class Result:
    maps: Tensor
    mean: Tensor


OUTPUTS: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "tensor": lambda maps, mean: maps,
    "tuple": lambda maps, mean: (maps, mean),
    "list": lambda maps, mean: [maps, mean],
    "dict": lambda maps, mean: {"maps": maps, "mean": mean},
    "ordered dict": lambda maps, mean: OrderedDict(mean=mean, maps=maps),
    "named tuple": Pair,
    "nested": lambda maps, mean: {"all": (maps, [mean]), "none": None, "number": 3},
}


class Returns(Net):
    def __init__(self, form: Callable[[Tensor, Tensor], Any], checks: bool) -> None:
        super().__init__()
        self.form, self.checks = form, checks

    def forward(self, x: Tensor) -> Any:
        for _ in bytes(x.shape[-1] // 1000 if self.checks else 0):
            raise ValueError("too wide")
        maps = self.maps(x)
        return self.form(maps, maps.mean((2, 3)))


def parts(output: Any) -> list[Any]:
    """The leaves of an output in a form-independent order, with the keys or fields that lead to each."""
    if isinstance(output, dict):
        return [(key, parts(value)) for key, value in output.items()]
    if isinstance(output, (tuple, list)):
        return [type(output).__name__, *map(parts, output)]
    return output.shape if isinstance(output, Tensor) else output


@pytest.mark.parametrize("checks", [False, True], ids=["torch.fx", "torch.export"])
@pytest.mark.parametrize("name", OUTPUTS)
def test_outputs_of_every_form(name: str, checks: bool) -> None:
    model, x = Returns(OUTPUTS[name], checks).eval(), picture()
    converted = antialias(model, example_inputs=x)
    assert converted.meta["front_end"] == ("torch.export" if checks else "torch.fx")
    assert [d.site for d in converted.meta["blurify"].rewritten] == ["conv"]
    verdict = verify(model, converted, x)
    assert verdict.ok, str(verdict)
    with torch.no_grad():
        expected, actual = model(x), converted(x)
    assert parts(actual) == parts(expected)
    pairs = zip(tensors(expected), tensors(actual), strict=True)
    assert min(relative_error(mine, theirs) for mine, theirs in pairs) > 1e-3


def tensors(output: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor)]


def test_a_dataclass_comes_out_as_itself() -> None:
    model, x = Returns(Result, False).eval(), picture()
    with torch.no_grad():
        expected, actual = model(x), antialias(model)(x)
        same = antialias(model, 1)(x)
    assert type(actual) is Result
    for field in ("maps", "mean"):
        assert relative_error(getattr(expected, field), getattr(actual, field)) > 1e-3
        # One tap moves a conv's subsampling behind a ReLU and nothing more.
        assert relative_error(getattr(expected, field), getattr(same, field)) <= 1e-6


@dataclass
class ModelOutput(OrderedDict):  # type: ignore[type-arg]
    """A mapping with attributes, as libraries of transformers return."""

    maps: Tensor
    mean: Tensor

    def __post_init__(self) -> None:
        self.update(maps=self.maps, mean=self.mean)


class Named(dict):  # type: ignore[type-arg]
    """A mapping that is made of a mapping."""


@pytest.mark.parametrize("form", [ModelOutput, lambda maps, mean: Named(maps=maps, mean=mean)])
def test_a_mapping_of_its_own_class_comes_out_as_itself(form: Callable[[Tensor, Tensor], Any]) -> None:
    model, x = Returns(form, False).eval(), picture()
    converted = antialias(model)
    assert verify(model, converted, x).ok
    with torch.no_grad():
        expected, actual = model(x), converted(x)
    assert type(actual) is type(expected)
    assert list(actual) == list(expected) == ["maps", "mean"]
    if isinstance(actual, ModelOutput):
        assert actual.maps is actual["maps"]
    assert type(pickle.loads(pickle.dumps(antialias(model)))(x)) is type(expected)


@dataclass
class Empty:
    score: float


def test_the_fields_of_a_dataclass_are_compared() -> None:
    model, x = Returns(Result, False).eval(), picture()
    converted = antialias(model)
    assert verify(model, converted, x).ok
    with torch.no_grad():
        converted.get_parameter("conv.bias").add_(1)
    assert verify(model, converted, x).identity_error > 1e-2


def test_an_output_without_tensors_proves_nothing() -> None:
    model = Returns(lambda maps, mean: Empty(0.5), False).eval()
    with pytest.raises(ArgumentError, match="Returns returns a Empty without tensors in it"):
        verify(model, antialias(model), picture())


class Pyramid(Net):
    def forward(self, x: Tensor) -> Tensor:
        small = self.maps(x)
        return nn.functional.interpolate(small, size=(small.shape[-2] * 2, small.shape[-1] * 2))


def test_upsampling_to_a_computed_size_is_blurred_on_request() -> None:
    model, x = Pyramid().eval(), picture()
    made = plan(model, upsample=True, example_inputs=x)
    assert [d.site for d in made.rewritten] == ["conv", "interpolate"]
    assert verify(model, made.apply(model), x).ok


WRONG: dict[str, tuple[Any, Any, type[Exception], str]] = {
    "another number of channels": (torch.zeros(1, 4, 16, 16), None, ArgumentError, "does not run on the given example"),
    "a number": (3, None, ArgumentTypeError, "example_inputs must be a tensor, a dict that forward takes"),
    "a word": ("picture", None, ArgumentTypeError, "example_inputs must be a tensor, a dict that forward takes"),
    "nothing in a tuple": ((), None, ArgumentTypeError, "non-empty tuple of forward's arguments"),
    "keywords in a list": (
        None,
        [1],
        ArgumentTypeError,
        r"example_kwargs must map .* to values, got \[1\]",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_examples_that_are_refused(name: str) -> None:
    inputs, kwargs, kind, words = WRONG[name]
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.AvgPool2d(4))
    with pytest.raises(kind, match=words):
        plan(model, example_inputs=inputs, example_kwargs=kwargs)


def test_verify_says_what_does_not_run() -> None:
    model = TwoPictures()
    converted = antialias(model)
    assert isinstance(converted, TracedModule)
    with pytest.raises(ArgumentError, match=r"TwoPictures does not run on the assumed input of size 1x3x224x224: .*"):
        verify(model, converted)
    with pytest.raises(ArgumentError, match=r"TwoPictures does not run on the given input of size 2x3x16x16: .*"):
        verify(model, converted, picture())


class Configured(nn.Identity):
    default_cfg: ClassVar = {"input_size": (5, 8, 9)}


def test_the_size_of_an_image_is_what_the_model_says() -> None:
    assert input_size(timm.create_model("test_resnet", in_chans=1)) == (1, 160, 160)
    assert input_size(Configured()) == (5, 8, 9)
    assert input_size(nn.Conv2d(2, 4, 3)) == (2, 224, 224)
    # A body without its stem says nothing of images.
    assert input_size(nn.Conv2d(512, 4, 3)) == input_size(nn.Identity()) == (3, 224, 224)
