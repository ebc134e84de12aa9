"""The form of the result is what was asked for, and both forms give the same."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, fx, nn

from blurify import Plan, antialias, load, save, verify
from blurify.errors import ArgumentError
from blurify.graph.hosts import BlurWrapper
from blurify.measure.cost import cost
from tests.conftest import randomize_statistics

X = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


class Functional(nn.Module):
    """A network one of whose strides no module holds."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv, self.relu = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3, 2, 1), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool2d(self.relu(self.conv(self.stem(x))), 2)


@pytest.fixture(scope="module")
def resnet() -> nn.Module:
    torch.manual_seed(0)
    return randomize_statistics(torchvision.models.resnet18().eval())


@pytest.mark.parametrize(
    ("asked", "form"),
    [
        ({"form": "class"}, "class"),
        ({"form": "graph"}, "graph"),
        ({"form": "auto"}, "class"),
        ({"keep_class": True}, "class"),
        ({"keep_class": False}, "graph"),
        ({"form": "class", "keep_class": True}, "class"),
    ],
)
def test_the_form_is_the_one_asked_for(resnet: nn.Module, asked: dict[str, Any], form: str) -> None:
    result: Any = antialias(resnet, inplace=True, **asked)
    assert result.meta["blurify_form"] == form
    assert isinstance(result, fx.GraphModule) is (form == "graph")
    assert isinstance(result, torchvision.models.ResNet) is (form == "class")


def test_auto_gives_a_graph_where_modules_cannot_express_a_site() -> None:
    result: Any = antialias(Functional(), form="auto")
    assert result.meta["blurify_form"] == "graph"
    assert "'max_pool2d' (its stride is an argument of a function)" in result.meta["blurify_why"]
    assert len(result.meta["blurify"].rewritten) == 2


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"form": "module"}, "form must be one of 'auto', 'class', 'graph', got 'module'"),
        ({"form": "graph", "keep_class": True}, "keep_class=True means form='class', but form='graph' was given"),
    ],
)
def test_other_forms_are_refused(asked: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        antialias(Functional(), **asked)


def test_both_forms_do_the_same_arithmetic_and_give_the_same(resnet: nn.Module) -> None:
    graph, kept = antialias(resnet, form="graph"), antialias(resnet, form="class")
    assert cost(kept, X).macs == cost(graph, X).macs < cost(antialias(resnet, form="class", optimize=False), X).macs
    with torch.no_grad():
        assert torch.equal(graph(X), kept(X))
    shortcuts = [f"layer{stage}.0.downsample.0" for stage in (2, 3, 4)]
    assert all(isinstance(kept.get_submodule(path), BlurWrapper) for path in shortcuts)
    moved = [f"blur moved before the 1x1 conv at {path}" for path in shortcuts]
    assert list(vars(kept)["meta"]["optimized"]) == [*moved, "4 modules run in micro-batches"]
    assert verify(resnet, kept, X).ok
    # Training takes statistics of the same maps.
    for model in (graph, kept):
        model.train()(X)
    assert all(map(torch.equal, graph.state_dict().values(), kept.state_dict().values()))


class Shortcut(nn.Module):
    """A 1x1 conv of stride 2 and a norm, the conv called by `calls`."""

    def __init__(self, calls: int) -> None:
        super().__init__()
        self.stem, self.conv, self.norm = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 1, 2), nn.BatchNorm2d(8)
        self.calls = calls

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for _ in range(self.calls):
            x = self.norm(self.conv(x))
        return x


@pytest.mark.parametrize("calls", [1, 2])
def test_a_conv_is_fed_a_blurred_map_at_every_call(calls: int) -> None:
    model = randomize_statistics(Shortcut(calls).eval())
    kept = antialias(model, 3, form="class")
    assert isinstance(kept.conv, BlurWrapper)
    with torch.no_grad():
        assert torch.equal(antialias(model, 3, form="graph")(X), kept(X))
        torch.testing.assert_close(antialias(model, 3, form="class", optimize=False)(X), kept(X))


class Uneven(nn.Module):
    """Calls one 1x1 conv before a function and before a norm, so that only one of the blurs could move."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv, self.norm = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 1, 2), nn.BatchNorm2d(8)
        self.act = nn.Tanh()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.conv(self.norm(self.conv(self.stem(x)))))


def test_a_blur_moves_only_if_it_moves_at_every_call() -> None:
    model = randomize_statistics(Uneven().eval())
    kept: Any = antialias(model, 3, form="class")
    assert not isinstance(kept.conv, BlurWrapper)
    with torch.no_grad():
        torch.testing.assert_close(antialias(model, 3, form="graph")(X), kept(X))


@pytest.mark.parametrize("form", ["class", "graph"])
def test_a_plan_is_carried_out_in_either_form(resnet: nn.Module, form: str) -> None:
    made: Plan = vars(antialias(resnet, form="class"))["meta"]["blurify"]
    result: Any = made.apply(resnet, form=form)
    assert result.meta["blurify_form"] == form
    assert result.meta["blurify"] == made


@pytest.mark.parametrize("form", ["class", "graph"])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_recipe_holds_either_form(form: str, suffix: str, tmp_path: Path) -> None:
    model = timm.create_model("test_resnet").eval()
    converted = antialias(model, form=form)
    save(converted, tmp_path / f"net{suffix}", arch="timm:test_resnet")
    loaded: Any = load(tmp_path / f"net{suffix}")
    assert loaded.meta["blurify_form"] == form
    assert isinstance(loaded, fx.GraphModule) is (form == "graph")
    with torch.no_grad():
        assert torch.equal(loaded(X), converted(X))


def test_a_hoisted_blur_is_copied_and_pickled(resnet: nn.Module) -> None:
    kept = antialias(resnet, form="class")
    with torch.no_grad():
        for twin in (copy.deepcopy(kept), pickle.loads(pickle.dumps(kept))):
            assert torch.equal(twin(X), kept(X))


@pytest.mark.parametrize("up", [nn.Upsample(scale_factor=2), nn.ConvTranspose2d(8, 8, 2, 2)])
def test_upsampling_is_blurred_in_either_form(up: nn.Module) -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), up, nn.Conv2d(8, 8, 1)).eval()
    kept = antialias(model, 3, form="class", upsample=True)
    assert isinstance(kept, nn.Sequential)
    with torch.no_grad():
        torch.testing.assert_close(antialias(model, 3, form="graph", upsample=True)(X), kept(X))
        assert (kept(X) - model(X)).abs().max() > 1e-3
