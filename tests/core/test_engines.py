"""Engines without reflect padding or antialiased resizing take `zero-renorm`, and a blur before a plain resize."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blurify import Plan, functional, layers, plan, verify
from blurify.errors import ArgumentTypeError
from blurify.filters import Filter
from blurify.kernels import plain
from tests.conftest import as_graph as antialias

LAYERS: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "blur": (layers.BlurPool2d(pad_type="zero-renorm"), (15, 14)),
    "blur of a large map": (layers.BlurPool2d(pad_type="zero-renorm"), (80, 81)),
    "blur of a row": (layers.BlurPool1d(pad_type="zero-renorm", filt_size=5), (9,)),
    "blur of a volume": (layers.BlurPool3d(pad_type="zero-renorm", filt_size=(1, 3, 4), stride=(1, 2, 2)), (3, 8, 9)),
    "blur of a map smaller than the filter": (layers.BlurPool2d(pad_type="zero-renorm", filt_size=7), (2, 1)),
    "same": (layers.SameBlurPool2d(3, 2, pad_type="zero-renorm"), (15, 14)),
    "average": (layers.AvgBlurPool2d(2, 2, pad_type="zero-renorm"), (15, 14)),
    "average up to the end": (layers.AvgBlurPool2d(3, 2, 1, ceil_mode=True, pad_type="zero-renorm"), (15, 14)),
    "adaptive": (layers.AdaptiveAvgBlurPool2d(4, pad_type="zero-renorm"), (16, 8)),
    "two dimensions": (layers.BlurAxes((2, 3), pad_type="zero-renorm"), (15, 14)),
    "half of the blur": (layers.BlurPool2d(pad_type="zero-renorm", strength=0.5), (15, 14)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_a_constant_map_stays_constant(name: str) -> None:
    layer, size = LAYERS[name]
    given = layer(torch.full((2, 3, *size), 5.0))
    torch.testing.assert_close(given, torch.full_like(given, 5.0))


@pytest.mark.parametrize("size", [(8, 8), (30, 31), (60, 50), (100, 101)])
@pytest.mark.parametrize("last", [False, True])
def test_every_way_gives_the_same(size: tuple[int, int], last: bool) -> None:
    x = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))
    x = x.to(memory_format=torch.channels_last) if last else x
    filt = layers.separable_filter((Filter(), Filter()), (2, 2))
    way = functional.blur(x, filt, [2, 2], [1, 1], [2, 2], "zero-renorm")
    torch.testing.assert_close(way, plain.blur(x, filt, [2, 2], [1, 1], [2, 2], "zero-renorm"))
    inside = F.conv2d(F.pad(torch.ones(1, 1, *size), (1, 2, 1, 2)), filt, stride=2)
    zeros = plain.blur(x, filt, [2, 2], [1, 1], [2, 2], "zero")
    torch.testing.assert_close(way, zeros / inside)


def test_gradients_are_numbers() -> None:
    x = torch.ones(1, 1, 5, 5, requires_grad=True)
    layers.AvgBlurPool2d(2, 2, ceil_mode=True, pad_type="zero-renorm")(x).sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()


class Shrinks(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.conv = nn.Conv2d(4, 8, 3, 2, 1)
        self.short = nn.Conv2d(4, 8, 1, 2)
        self.pool = nn.AvgPool2d(2, ceil_mode=True)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        return self.pool(self.relu(self.conv(x)) + self.short(x))


EXAMPLE = torch.randn(1, 3, 30, 30, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("form", ["graph", "class"])
def test_networks_are_proved(form: str) -> None:
    model = Shrinks().eval()
    converted = antialias(model, pad_type="zero-renorm", form=form, example_inputs=EXAMPLE)
    assert verify(model, converted, example_inputs=EXAMPLE).ok
    made = plan(model, pad_type="zero-renorm", example_inputs=EXAMPLE)
    assert Plan.from_json(made.to_json()) == made
    assert "padding zero-renorm" in str(made)


def test_a_blur_moves_before_a_1x1_conv_as_sums_stay_1() -> None:
    converted = antialias(Shrinks().eval(), pad_type="zero-renorm", form="graph", example_inputs=EXAMPLE)
    assert any("blur moved before the 1x1 conv at short" in line for line in converted.meta["optimized"])
    kept = antialias(Shrinks().eval(), pad_type="zero-renorm", form="graph", optimize=False, example_inputs=EXAMPLE)
    kept.load_state_dict(converted.state_dict())
    torch.testing.assert_close(kept(EXAMPLE), converted(EXAMPLE))


@pytest.mark.filterwarnings(
    "ignore:`torch.jit:FutureWarning", "ignore:`torch.jit:DeprecationWarning", "ignore::torch.jit.TracerWarning"
)
def test_programs_and_scripts_give_the_same() -> None:
    converted = antialias(Shrinks().eval(), pad_type="zero-renorm", example_inputs=EXAMPLE)
    sizes = {2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
    program = torch.export.export(converted, (EXAMPLE,), dynamic_shapes=(sizes,)).module()
    other = torch.randn(1, 3, 37, 42)
    torch.testing.assert_close(program(other), converted(other))
    layer = LAYERS["blur"][0]
    torch.testing.assert_close(torch.jit.script(layer)(other), layer(other))
    torch.testing.assert_close(torch.jit.trace(converted, EXAMPLE)(EXAMPLE), converted(EXAMPLE))


class Resizes(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(self.stem(x), scale_factor=0.5, mode="bilinear")


def test_a_resize_is_blurred_before_on_request() -> None:
    model = Resizes().eval()
    smooth, plainly = (antialias(model, 3, antialias_resize=flag, example_inputs=EXAMPLE) for flag in (True, False))
    torch.testing.assert_close(
        plainly(EXAMPLE),
        F.interpolate(layers.BlurPool2d(filt_size=3, stride=1)(model.stem(EXAMPLE)), scale_factor=0.5, mode="bilinear"),
    )
    assert not torch.allclose(smooth(EXAMPLE), plainly(EXAMPLE), atol=1e-3)
    assert verify(model, plainly, example_inputs=EXAMPLE).ok
    made = plan(model, 3, antialias_resize=False, example_inputs=EXAMPLE)
    assert Plan.from_json(made.to_json()) == made
    assert made.rewritten[0].plain_resize
    with pytest.raises(ArgumentTypeError, match="antialias_resize must be True or False"):
        plan(model, antialias_resize="no")


def operators(model: nn.Module, target: Path) -> set[str]:
    onnx = pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")
    from blurify.files import save_onnx

    save_onnx(model, target, EXAMPLE)
    given = runtime.InferenceSession(target, providers=["CPUExecutionProvider"]).run(None, {"x": EXAMPLE.numpy()})
    torch.testing.assert_close(torch.from_numpy(given[0]), model(EXAMPLE), rtol=1e-4, atol=1e-5)
    graph = onnx.load(target).graph
    modes = [a.s.decode() for n in graph.node if n.op_type == "Pad" for a in n.attribute if a.name == "mode"]
    antialiased = [n for n in graph.node if n.op_type == "Resize" for a in n.attribute if a.name == "antialias" and a.i]
    return (
        {n.op_type for n in graph.node}
        | {f"Pad {mode}" for mode in modes}
        | ({"antialiased"} if antialiased else set())
    )


def test_onnx_has_zeros_and_one_product(tmp_path: Path) -> None:
    converted = antialias(Shrinks().eval(), 3, pad_type="zero-renorm", example_inputs=EXAMPLE)
    found = operators(converted, tmp_path / "net.onnx")
    assert not found & {"Pad reflect", "Pad edge"}
    assert "Conv" in found


def test_onnx_has_a_plain_resize(tmp_path: Path) -> None:
    converted = antialias(Resizes().eval(), 3, pad_type="zero-renorm", antialias_resize=False, example_inputs=EXAMPLE)
    found = operators(converted, tmp_path / "net.onnx")
    assert "Resize" in found
    assert "antialiased" not in found
