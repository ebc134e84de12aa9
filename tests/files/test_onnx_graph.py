"""An `.onnx` runs in onnxruntime, where nothing of torch or blurify is; its blurs are standard operators."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from blurify import antialias
from blurify.errors import BlurifyError, FileError
from blurify.files import onnx_graph
from blurify.files.onnx_graph import require_onnx, save_onnx
from tests.conftest import randomize_statistics, relative_error
from tests.networks import network

onnx = pytest.importorskip("onnx")
np = pytest.importorskip("numpy")

FRESH = """
import sys
sys.modules["blurify"] = sys.modules["torch"] = None
import numpy, onnxruntime
session = onnxruntime.InferenceSession("model.onnx", providers=["CPUExecutionProvider"])
given = session.get_inputs()[0].name
numpy.save("y.npy", session.run(None, {given: numpy.load("x.npy")})[0])
"""


def run_fresh(folder: Path, x: Tensor) -> Tensor:
    np.save(folder / "x.npy", x.numpy())
    subprocess.run([sys.executable, "-c", FRESH], cwd=folder, check=True, timeout=200)
    return torch.from_numpy(np.load(folder / "y.npy"))


def constants(graph: Any) -> dict[str, Any]:
    held = {value.name: onnx.numpy_helper.to_array(value) for value in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant":
            held[node.output[0]] = onnx.numpy_helper.to_array(node.attribute[0].t)
    return held


def small() -> nn.Module:
    """Return one site of each kind, whose export for any size takes a moment."""
    convs = [nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(3, 2, 1), nn.Conv2d(4, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU()]
    return nn.Sequential(*convs, nn.AvgPool2d(2), nn.AdaptiveAvgPool2d(1), nn.Flatten())


OTHER: dict[str, Any] = {"pad_type": "zero", "filt_size": 3}
EXPORTED = [
    (lambda: network("timm:test_resnet"), False, (64, 64), {}),
    (lambda: randomize_statistics(small()), True, (67, 90), OTHER),
    pytest.param(lambda: network("timm:test_resnet"), True, (67, 90), OTHER, marks=pytest.mark.slow),
]


@pytest.mark.parametrize(
    ("make", "dynamic", "size", "arguments"), EXPORTED, ids=["one size", "any size", "any size, residual"]
)
def test_a_graph_runs_without_torch(
    make: Callable[[], nn.Module], dynamic: bool, size: tuple[int, int], arguments: Any, tmp_path: Path
) -> None:
    model = make().eval()
    converted = antialias(model, form="graph", **arguments)
    save_onnx(converted, tmp_path / "model.onnx", torch.randn(1, 3, 64, 64), dynamic_size=dynamic)
    x = torch.randn(3, 3, *size)
    with torch.no_grad():
        assert relative_error(converted(x), run_fresh(tmp_path, x)) < 1e-4
    proto = onnx.load(tmp_path / "model.onnx")
    assert proto.opset_import[0].version >= 17
    held = constants(proto.graph)
    made = {output: node for node in proto.graph.node for output in node.output}
    blurs = [node for node in proto.graph.node if node.op_type == "Conv" and is_blur(node, held)]
    # As many as layers blur after optimization.
    expected = sum("blurs" in node.meta for node in converted.graph.nodes)
    assert len(blurs) == expected > 0
    if "pad_type" not in arguments:
        pads = [made[node.input[0]] for node in blurs]
        assert {(pad.op_type, pad.attribute[0].s) for pad in pads} == {("Pad", b"reflect")}


def is_blur(node: Any, held: dict[str, Any]) -> bool:
    """Whether the conv has one constant filter of sum 1 for every channel."""
    weight = held.get(node.input[1])
    groups = next((a.i for a in node.attribute if a.name == "group"), 1)
    if weight is None or groups == 1 or weight.shape[:2] != (groups, 1):
        return False
    return bool((weight == weight[:1]).all()) and weight[0].sum() == pytest.approx(1)


class Fixed(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.linalg.eigvals(x).real


def test_what_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"^Fixed cannot be written as ONNX: .*; write a \.pt2 instead\.$"):
        save_onnx(Fixed(), tmp_path / "model.onnx", torch.randn(1, 3, 8, 8))
    assert list(tmp_path.iterdir()) == []


def test_what_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(BlurifyError, match=r"Writing ONNX needs onnxscript, .* pip install 'blurify\[onnx\]'"):
        require_onnx()


def test_what_is_too_large_for_one_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_graph, "MOST_BYTES", 100)
    with pytest.raises(FileError, match=r"Conv2d has .* GiB of weights, and an ONNX file holds less than 2"):
        save_onnx(nn.Conv2d(3, 8, 3), tmp_path / "model.onnx", torch.randn(1, 3, 8, 8))
    assert list(tmp_path.iterdir()) == []
