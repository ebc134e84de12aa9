"""What traces, scripts, exports and compiles a model does so with what it was converted to, in either form."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from typing import Any

import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torchvision.models import get_model
from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names

from blurify import antialias
from blurify.graph.hosts import BlurWrapper
from blurify.layers import (
    AdaptiveAvgBlurPool2d,
    AdaptiveMaxBlurPool2d,
    AntialiasedResize,
    AvgBlurPool1d,
    AvgBlurPool2d,
    AvgBlurPool3d,
    BlurAxes,
    BlurPool2d,
    LpBlurPool2d,
    MaxBlurPool1d,
    MaxBlurPool2d,
    MaxBlurPool3d,
    SameBlurPool2d,
)
from tests.conftest import randomize_statistics, relative_error, run

pytestmark = pytest.mark.filterwarnings("ignore")


class Block(nn.Module):
    """A residual block, so that a blur is shared and hoisted."""

    def __init__(self, inside: int, outside: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inside, outside, 3, 2, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outside)
        self.conv2 = nn.Conv2d(outside, outside, 3, 1, 1)
        self.shortcut = nn.Sequential(nn.Conv2d(inside, outside, 1, 2), nn.BatchNorm2d(outside))
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv2(self.relu(self.bn1(self.conv1(x))))
        return self.relu(y + self.shortcut(x))


class Net(nn.Module):
    """Every kind of site that modules hold."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 1, 1), nn.ReLU(), nn.MaxPool2d(3, 2, 1, ceil_mode=True))
        self.block = Block(8, 12)
        self.pools = nn.Sequential(nn.LPPool2d(2, 2), nn.Conv2d(12, 8, 1), nn.AvgPool2d(5, 2, 2), nn.Dropout(0.2))
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.pools(self.block(self.stem(x))))  # type: ignore[no-any-return]


X, OTHER = torch.randn(2, 3, 45, 64), torch.randn(3, 3, 64, 75)


@pytest.fixture(scope="module", params=["graph", "class"])
def converted(request: pytest.FixtureRequest) -> Any:
    torch.manual_seed(0)
    return antialias(randomize_statistics(Net()).eval(), keep_class=request.param == "class")


def symbolically_traced(model: nn.Module) -> Callable[[Tensor], Tensor]:
    return fx.symbolic_trace(model)


def features(model: nn.Module) -> Callable[[Tensor], Tensor]:
    names = get_graph_node_names(model)[1]
    assert any(name.startswith("block.conv2") for name in names)
    extractor = create_feature_extractor(model, {"stem": "stem", "head": "head"})
    return lambda x: extractor(x)["head"]


def scripted(model: nn.Module) -> Callable[[Tensor], Tensor]:
    return torch.jit.script(model)


def traced(model: nn.Module) -> Callable[[Tensor], Tensor]:
    return torch.jit.trace(model, X)


def exported(model: nn.Module) -> Callable[[Tensor], Tensor]:
    batch = torch.export.Dim("batch")
    return torch.export.export(model, (X,), dynamic_shapes=({0: batch},)).module()


def compiled(model: nn.Module) -> Callable[[Tensor], Tensor]:
    return torch.compile(model, fullgraph=True, backend="eager")  # type: ignore[no-any-return]


def older_onnx(model: nn.Module) -> Callable[[Tensor], Tensor]:
    file = io.BytesIO()
    sizes = {"x": {0: "n", 2: "h", 3: "w"}}
    torch.onnx.export(model, (X,), file, dynamo=False, input_names=["x"], output_names=["y"], dynamic_axes=sizes)
    session = onnxruntime.InferenceSession(file.getvalue())
    return lambda x: torch.from_numpy(session.run(None, {"x": x.numpy()})[0])


ONE_SIZE = (exported,)
COMPILED = pytest.param(compiled, marks=pytest.mark.slow)


@pytest.mark.parametrize("tool", [symbolically_traced, features, scripted, traced, exported, COMPILED, older_onnx])
def test_tools_take_it(converted: Any, tool: Any) -> None:
    modules = dict(converted.named_modules())
    with torch.no_grad():
        run_by_tool = tool(converted)
        for x in (X,) if tool in ONE_SIZE else (X, OTHER):
            assert relative_error(run(converted, x), run_by_tool(x)) < 1e-5
    # None of them leaves anything of its own in the model.
    assert {name: id(module) for name, module in modules.items()} == {
        name: id(module) for name, module in converted.named_modules()
    }


@pytest.mark.slow
@pytest.mark.parametrize("form", ["graph", "class"])
@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "densenet121"])
def test_real_networks_in_the_older_onnx(name: str, form: str) -> None:
    converted = antialias(get_model(name).eval(), form=form)
    in_onnx_runtime = older_onnx(converted)
    for x in (X, OTHER, torch.randn(1, 3, 96, 101)):
        assert relative_error(run(converted, x), in_onnx_runtime(x)) < 1e-5


LAYERS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "blur": (lambda: BlurPool2d(8), 2),
    "one tap": (lambda: BlurPool2d(8, filt_size=1), 2),
    "circular": (lambda: BlurPool2d(8, "circular"), 2),
    "max": (lambda: MaxBlurPool2d(3, 2, 1, ceil_mode=True), 2),
    "max of one tap": (lambda: MaxBlurPool2d(3, 2, 1, filt_size=1), 2),
    "max 1-D": (lambda: MaxBlurPool1d(3, 2, 1), 1),
    "max 3-D": (lambda: MaxBlurPool3d(3, 2, 1), 3),
    "wide average": (lambda: AvgBlurPool2d(5, 3), 2),
    "half an average": (lambda: AvgBlurPool2d(2, strength=0.5), 2),
    "average of one tap": (lambda: AvgBlurPool2d(2, filt_size=1), 2),
    "average, ceil": (lambda: AvgBlurPool2d(5, 3, 1, ceil_mode=True), 2),
    "average, padding not counted": (lambda: AvgBlurPool2d(5, 3, 2, count_include_pad=False), 2),
    "average, own divisor": (lambda: AvgBlurPool2d(3, 2, divisor_override=5), 2),
    "average 1-D": (lambda: AvgBlurPool1d(5, 3, 1), 1),
    "average 3-D": (lambda: AvgBlurPool3d(5, 3, 1), 3),
    "power average": (lambda: LpBlurPool2d(2, 5, 3), 2),
    "largest magnitude": (lambda: LpBlurPool2d(float("inf"), 3, 2), 2),
    "adaptive average": (lambda: AdaptiveAvgBlurPool2d(3), 2),
    "adaptive max": (lambda: AdaptiveMaxBlurPool2d(3), 2),
    "same": (lambda: SameBlurPool2d(3), 2),
    "axes": (lambda: BlurAxes((1, 2)), 2),
}


@pytest.mark.parametrize("name", LAYERS)
def test_every_layer_is_traced_scripted_and_exported(name: str) -> None:
    make, axes = LAYERS[name]
    layer = make().eval()
    x = torch.randn(2, 8, *(15, 18, 21)[:axes])
    expected = layer(x)
    assert torch.equal(fx.symbolic_trace(layer)(x), expected)
    assert relative_error(expected, torch.jit.script(layer)(x)) < 1e-5
    # The newer exporter has its own tests; averages were what it got wrong.
    for dynamo in (False, True) if "average" in name else (False,):
        assert relative_error(expected, in_onnx(layer, x, dynamo)) < 1e-5, f"dynamo={dynamo}"


def in_onnx(layer: nn.Module, x: Tensor, dynamo: bool) -> Tensor:
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(layer, (x,), file, dynamo=dynamo, verbose=False)
    session = onnxruntime.InferenceSession(file.getvalue())
    return torch.from_numpy(session.run(None, {session.get_inputs()[0].name: x.numpy()})[0])


@pytest.mark.parametrize("mode", ["nearest", "bilinear"])
def test_a_resize_is_traced_and_scripted(mode: str) -> None:
    layer, x = AntialiasedResize(4), torch.randn(2, 3, 16, 18)
    expected = layer(x, None, 0.5, mode)
    graph = fx.symbolic_trace(layer, {"size": None, "scale_factor": 0.5, "mode": mode})
    assert torch.equal(graph(x, None, 0.5, mode), expected)


class Named(nn.Module):
    def forward(self, signal: Tensor) -> Tensor:
        """Give the rectified signal."""
        return F.relu(signal)


def test_a_host_takes_its_argument_by_name_as_its_class_does() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 3, 2, 1), Named())
    kept = antialias(model, keep_class=True)
    host = kept[2]
    assert isinstance(host, BlurWrapper)
    assert isinstance(host, Named)
    x = torch.randn(1, 4, 9, 9)
    assert torch.equal(host(signal=x), host(x))
    assert host(x).shape == (1, 4, 5, 5)
    with pytest.raises(TypeError, match="argument 'x'"):
        host(x=x)
