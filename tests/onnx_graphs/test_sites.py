"""Every form of a strided op in an ONNX graph: equal at one tap, and the layers' own values at more."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from blurify import layers
from blurify.errors import ArgumentError
from blurify.filters import as_filter
from blurify.planning.spec import Spec
from blurify.sites import Reason
from tests.onnx_graphs.conftest import converted, graph, normal, opened, run

KEEPS = "r = Relu(x)"
CONV = "c = Conv<strides=[2,2], {}>(r, w) y = Relu(c)"
FORMS = {
    "max": "y = MaxPool<kernel_shape=[2,2], strides=[2,2]>(r)",
    "max of three": "y = MaxPool<kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1]>(r)",
    "max unevenly padded": "y = MaxPool<kernel_shape=[3,3], strides=[2,2], pads=[0,0,1,1]>(r)",
    "max in ceil mode": "y = MaxPool<kernel_shape=[3,3], strides=[2,2], ceil_mode=1>(r)",
    "max padded in ceil mode": "y = MaxPool<kernel_shape=[2,2], strides=[2,2], pads=[1,1,0,0], ceil_mode=1>(r)",
    "max in wide steps": "y = MaxPool<kernel_shape=[2,2], strides=[3,3], ceil_mode=1>(r)",
    "max dilated": "y = MaxPool<kernel_shape=[2,2], strides=[2,2], dilations=[2,2]>(r)",
    "max of upper SAME": 'y = MaxPool<kernel_shape=[3,3], strides=[2,2], auto_pad="SAME_UPPER">(r)',
    "max of lower SAME": 'y = MaxPool<kernel_shape=[2,2], strides=[2,2], auto_pad="SAME_LOWER">(r)',
    "max of one axis": "y = MaxPool<kernel_shape=[2,1], strides=[2,1]>(r)",
    "mean": "y = AveragePool<kernel_shape=[2,2], strides=[2,2]>(r)",
    "mean padded": "y = AveragePool<kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1]>(r)",
    "mean with zeros": "y = AveragePool<kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1], count_include_pad=1>(r)",
    "mean in ceil mode": "y = AveragePool<kernel_shape=[3,3], strides=[2,2], ceil_mode=1>(r)",
    "mean of SAME": 'y = AveragePool<kernel_shape=[3,3], strides=[2,2], auto_pad="SAME_UPPER">(r)',
    "wide mean": "y = AveragePool<kernel_shape=[5,5], strides=[2,2], pads=[2,2,2,2]>(r)",
    "powers": "y = LpPool<kernel_shape=[3,3], strides=[2,2], p=2>(r)",
    "conv": CONV.format("pads=[1,1,1,1]"),
    "conv unevenly padded": CONV.format("pads=[0,0,1,1]"),
    "conv of upper SAME": CONV.format('auto_pad="SAME_UPPER"'),
    "conv of lower SAME": CONV.format('auto_pad="SAME_LOWER"'),
    "conv of VALID": CONV.format('auto_pad="VALID"'),
    "conv dilated": CONV.format("dilations=[2,2], pads=[2,2,2,2]"),
    "conv of one axis": "y = Conv<strides=[1,2], pads=[1,1,1,1]>(r, w)",
    "conv of four steps": "y = Conv<strides=[4,4], pads=[1,1,1,1]>(r, w)",
    "slice": "y = Slice(r, from, to, axes, two)",
    "two slices": "s = Slice(r, zero, end, second, step) y = Slice(s, zero, end, third, step)",
    "resize": 'y = Resize<mode="nearest">(r, , half)',
    "linear resize": 'y = Resize<mode="linear">(r, , half)',
}
WEIGHTS: dict[str, Any] = {
    "w": normal(4, 4, 3, 3),
    "from": [0, 0],
    "to": [2**31, 2**31],
    "axes": [2, 3],
    "two": [2, 2],
    "zero": [0],
    "end": [2**31],
    "second": [2],
    "third": [3],
    "step": [2],
    "half": normal(4) * 0 + [1, 1, 0.5, 0.5],
}


def weights(body: str) -> dict[str, Any]:
    import numpy as np

    words = set(body.replace("(", " ").replace(")", " ").replace(",", " ").split())
    kinds = {"w": "float32", "half": "float32"}
    return {name: np.asarray(value, kinds.get(name, "int64")) for name, value in WEIGHTS.items() if name in words}


def net(form: str, given: str, opset: int = 17) -> Any:
    body = f"f = Conv<pads=[1,1,1,1]>(x, f0) r = Relu(f) {FORMS[form]}"
    return graph(body, given, opset=opset, f0=normal(4, 3, 3, 3), **weights(body))


@pytest.mark.parametrize("size", [(16, 16), (15, 18), (13, 7)])
@pytest.mark.parametrize("form", FORMS)
def test_one_tap_is_the_op_itself(form: str, size: tuple[int, int], tmp_path: Path) -> None:
    if form == "slice" and size == (13, 7):
        pytest.skip("the same slices")
    result, plan = converted(net(form, f"float[2,3,{size[0]},{size[1]}] x"), tmp_path)
    assert len(plan.rewritten) == 1, str(plan)
    x = normal(2, 3, *size)
    (before,), (after,) = run(net(form, f"float[2,3,{size[0]},{size[1]}] x"), x=x), run(result, x=x)
    assert before.shape == after.shape
    assert abs(before - after).max() > 1e-3


@pytest.mark.parametrize("form", [form for form in FORMS if form not in ("wide mean", "mean in ceil mode")])
def test_open_sizes_stay_open(form: str, tmp_path: Path) -> None:
    made = net(form, "float[N,3,H,W] x")
    read = opened(made, tmp_path, x=(1, 3, 17, 14))
    plan = read.plan(Spec.of(5))
    assert len(plan.rewritten) == 1, str(plan)
    result = read.converted(plan)
    for sizes in ((1, 3, 17, 14), (2, 3, 16, 23)):
        x = normal(*sizes)
        (before,), (after,) = run(made, x=x), run(result, x=x)
        fixed = net(form, f"float[{sizes[0]},3,{sizes[2]},{sizes[3]}] x")
        (expected,) = run(converted(fixed, tmp_path, Spec.of(5))[0], x=x)
        assert before.shape == after.shape
        assert abs(after - expected).max() < 1e-5


def test_a_wide_mean_of_open_size_is_kept_and_says_why(tmp_path: Path) -> None:
    plan = opened(net("mean in ceil mode", "float[N,3,H,W] x"), tmp_path, x=(1, 3, 17, 14)).plan(Spec.of(2))
    assert [d.reason for d in plan.decisions] == [Reason.OPEN_SIZE]


def test_an_old_opset_computes_no_padding(tmp_path: Path) -> None:
    plan = opened(net("max of upper SAME", "float[N,3,H,W] x", opset=9), tmp_path, x=(1, 3, 17, 14)).plan(Spec.of())
    assert [d.reason for d in plan.decisions] == [Reason.OLD_OPSET]


@pytest.mark.parametrize("opset", [7, 9, 10, 11, 13, 18, 21])
def test_nothing_is_upgraded(opset: int, tmp_path: Path) -> None:
    made = net("max", "float[1,3,16,16] x", opset)
    result, _ = converted(made, tmp_path)
    assert result.opset_import == made.opset_import


def torch_of(result: Any, x: Tensor) -> Tensor:
    return torch.from_numpy(run(result, x=x.numpy())[0])


PAD_TYPES = ("reflect", "replicate", "zero", "zero-renorm", "circular")


@pytest.mark.parametrize("pad_type", PAD_TYPES)
@pytest.mark.parametrize("size", ["16,13", "H,W", "3,2"])
@pytest.mark.parametrize("taps", [2, 4, 5])
def test_values_are_those_of_the_layers(pad_type: str, size: str, taps: int, tmp_path: Path) -> None:
    made = graph("r = Relu(x) y = MaxPool<kernel_shape=[2,2], strides=[2,2], ceil_mode=1>(r)", f"float[1,3,{size}] x")
    sizes = (1, 3, 16, 13) if size == "H,W" else (1, 3, *map(int, size.split(",")))
    read = opened(made, tmp_path, x=sizes)
    result = read.converted(read.plan(Spec.of(taps, pad_type=pad_type)))
    x = torch.from_numpy(normal(*sizes))
    layer = layers.MaxBlurPool2d(2, ceil_mode=True, filt_size=taps, pad_type=pad_type)
    assert torch.allclose(torch_of(result, x), layer(x.relu()), atol=1e-6)


@pytest.mark.parametrize("size", ["16,13", "3,2"])
@pytest.mark.parametrize(("stride", "name"), [(2, "halfband"), (3, "lanczos"), (2, "1,3,0"), (4, "kaiser")])
def test_filters_are_those_of_the_layers(stride: int, name: str, size: str, tmp_path: Path) -> None:
    for op, layer in (("MaxPool", layers.MaxBlurPool2d), ("AveragePool", layers.AvgBlurPool2d)):
        body = f"r = Relu(x) y = {op}<kernel_shape=[2,2], strides=[{stride},{stride}]>(r)"
        sizes = (1, 3, *map(int, size.split(",")))
        read = opened(graph(body, f"float[1,3,{size}] x"), tmp_path, x=sizes)
        result = read.converted(read.plan(Spec.of(filter=name)))
        x = torch.from_numpy(normal(*sizes))
        assert torch.allclose(torch_of(result, x), layer(2, stride, filter=as_filter(name))(x.relu()), atol=1e-6)


def test_a_slice_is_blurred_for_its_own_step(tmp_path: Path) -> None:
    steps = {"s": [0, 0], "e": [99, 99], "a": [2, 3], "t": [3, 3]}
    made = graph("r = Relu(x) y = Slice(r, s, e, a, t)", "float[1,3,24,24] x", **steps)
    result, _ = converted(made, tmp_path, Spec.of(filter="lanczos"))
    x = torch.from_numpy(normal(1, 3, 24, 24))
    expected = layers.BlurPool2d(stride=3, filter="lanczos")(x.relu())
    assert torch.allclose(torch_of(result, x), expected, atol=1e-6)


def test_an_ideal_filter_cannot_be_written(tmp_path: Path) -> None:
    made = graph("y = MaxPool<kernel_shape=[2,2], strides=[2,2]>(x)", "float[1,3,16,16] x")
    with pytest.raises(ArgumentError, match="The ideal filter has no taps to write to an ONNX file"):
        opened(made, tmp_path).plan(Spec.of(filter="ideal", pad_type="circular"))


@pytest.mark.parametrize("strength", [0.3, 1.0])
@pytest.mark.parametrize(("kernel", "taps"), [(2, 4), (2, 3), (3, 5), (4, 3)])
def test_means_are_those_of_the_layers(kernel: int, taps: int, strength: float, tmp_path: Path) -> None:
    pool = f"AveragePool<kernel_shape=[{kernel},{kernel}], strides=[2,2], pads=[1,1,1,1], count_include_pad=1>"
    result, _ = converted(graph(f"y = {pool}(x)", "float[1,3,16,13] x"), tmp_path, Spec.of(taps, strength=strength))
    layer = layers.AvgBlurPool2d(kernel, 2, 1, filt_size=taps, strength=strength)
    x = torch.from_numpy(normal(1, 3, 16, 13))
    assert torch.allclose(torch_of(result, x), layer(x), atol=1e-6)


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_axes(axes: int, tmp_path: Path) -> None:
    twos, spatial = ",".join("2" * axes), ",".join(["12"] * axes)
    gives = ",".join(["N", "C", *"DHW"[:axes]])
    body = f"f = Conv(x, v) c = Conv<strides=[{twos}]>(f, w) s = Sigmoid(c) y = Mul(c, s)"
    size = (4, 4, *[3] * axes)
    one = normal(4, 3, *[1] * axes)
    made = graph(body, f"float[1,3,{spatial}] x", f"float[{gives}] y", v=one, w=normal(*size))
    result, plan = converted(made, tmp_path, Spec.of(3))
    assert [d.landing for d in plan.rewritten] == ["Mul#0.3"]
    conv = (nn.functional.conv1d, nn.functional.conv2d, nn.functional.conv3d)[axes - 1]
    x = torch.from_numpy(normal(1, 3, *[12] * axes))
    dense = nn.functional.silu(conv(conv(x, torch.from_numpy(one)), torch.from_numpy(normal(*size))))
    assert torch.allclose(torch_of(result, x), layers.BLUR_POOLS[axes](filt_size=3)(dense), atol=1e-6)


@pytest.mark.parametrize("kind", ["float16", "double"])
def test_kernels_are_of_the_type_of_the_graph(kind: str, tmp_path: Path) -> None:
    made = graph(
        "f = Conv(x, v) y = MaxPool<kernel_shape=[2,2], strides=[2,2]>(f)",
        f"{kind}[1,3,16,16] x",
        f"{kind}[1,4,8,8] y",
        v=normal(4, 3, 1, 1, kind="float16" if kind == "float16" else "float64"),
    )
    # onnxruntime has no convolution of doubles, so this is not run.
    read = opened(made, tmp_path)
    result = read.converted(read.plan(Spec.of()))
    assert {tensor.data_type for tensor in result.graph.initializer} >= {10 if kind == "float16" else 11}


def test_channels_that_are_not_known_are_samples(tmp_path: Path) -> None:
    made = graph("y = MaxPool<kernel_shape=[2,2], strides=[2,2]>(x)", "float[N,C,H,W] x")
    read = opened(made, tmp_path, x=(2, 5, 12, 12))
    result = read.converted(read.plan(Spec.of(3)))
    assert [node.op_type for node in result.graph.node].count("Reshape") == 2
    x = torch.from_numpy(normal(3, 7, 9, 10))
    assert torch.allclose(torch_of(result, x), layers.MaxBlurPool2d(2, filt_size=3)(x), atol=1e-6)


def test_indices_stay_those_of_the_strided_pool(tmp_path: Path) -> None:
    body = "y, i = MaxPool<kernel_shape=[2,2], strides=[2,2]>(x)"
    made = graph(body, "float[1,3,12,12] x", "float[1,3,6,6] y, int64[1,3,6,6] i")
    result, _ = converted(made, tmp_path)
    x = normal(1, 3, 12, 12)
    before, after = run(made, x=x), run(result, x=x)
    assert (before[1] == after[1]).all()
    assert abs(before[0] - after[0]).max() > 1e-3


def test_integers_are_blurred_and_rounded(tmp_path: Path) -> None:
    import numpy as np

    made = graph(
        "q = QuantizeLinear(x, s, z) m = MaxPool<kernel_shape=[2,2], strides=[2,2]>(q) y = DequantizeLinear(m, s, z)",
        "float[1,3,16,16] x",
        s=np.float32(0.02),
        z=np.uint8(100),
    )
    read = opened(made, tmp_path)
    plan = read.plan(Spec.of(3))
    result = read.converted(plan)
    assert read.prove(plan, result).ok
    x = normal(1, 3, 16, 16)
    expected = layers.MaxBlurPool2d(2, filt_size=3)(torch.from_numpy(x))
    assert (torch_of(result, torch.from_numpy(x)) - expected).abs().max() < 0.021


def test_the_other_forms_are_on_request(tmp_path: Path) -> None:
    body = "c = ConvTranspose<strides=[2,2]>(x, w) d = DepthToSpace<blocksize=2>(c) y = Conv(d, v)"
    made = graph(body, "float[1,4,8,8] x", w=normal(4, 8, 2, 2), v=normal(1, 2, 1, 1))
    assert [d.reason for d in opened(made, tmp_path).plan(Spec.of()).decisions] == [Reason.UPSAMPLING] * 2
    _, plan = converted(made, tmp_path, Spec.of(upsample=True))
    assert len(plan.rewritten) == 2


@pytest.mark.parametrize("size", [(2, 3), (1, 9), (4, 4), (30, 5)])
def test_axes_of_open_size_may_be_short(size: tuple[int, int], tmp_path: Path) -> None:
    made = graph("r = Relu(x) y = MaxPool<kernel_shape=[1,1], strides=[2,2]>(r)", "float[1,3,H,W] x")
    read = opened(made, tmp_path, x=(1, 3, 16, 16))
    result = read.converted(read.plan(Spec.of(5)))
    x = torch.from_numpy(normal(1, 3, *size))
    assert torch.allclose(torch_of(result, x), layers.BlurPool2d(filt_size=5)(x.relu()), atol=1e-6)
