"""ONNX graphs are read, converted as programs are, and written back; onnxruntime says what they compute."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import nn

from blurify import antialias, verify
from blurify.errors import BlurifyError, FileError
from blurify.files.formats import FORMATS, SaveOptions
from blurify.files.onnx_graph import save_onnx
from blurify.files.onnx_program import read_onnx
from blurify.files.reading import read_model
from tests.conftest import randomize_statistics, relative_error

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnx2torch")
ort = pytest.importorskip("onnxruntime")
np = pytest.importorskip("numpy")


def outputs(path: Path, x: torch.Tensor) -> torch.Tensor:
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {session.get_inputs()[0].name: x.numpy()})[0])


@pytest.fixture(scope="module")
def original() -> nn.Module:
    torch.manual_seed(0)
    return randomize_statistics(timm.create_model("test_resnet")).eval()


@pytest.fixture(scope="module")
def written(original: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A graph under a name that says nothing of it."""
    path = tmp_path_factory.mktemp("written") / "net.onnx"
    save_onnx(original, path, torch.randn(1, 3, 64, 64))
    return path.rename(path.with_suffix(".bin"))


def test_a_graph_is_read_and_proved(written: Path) -> None:
    loaded = read_model(written)
    assert (loaded.form, loaded.signature is not None) == ("onnx", True)
    x = torch.randn(3, 3, 64, 64)
    assert verify(loaded.model, antialias(loaded.model, example_inputs=x), x).ok


def test_a_graph_is_read_converted_and_written_back(original: nn.Module, written: Path, tmp_path: Path) -> None:
    loaded, x = read_model(written), torch.randn(3, 3, 64, 64)
    converted = antialias(loaded.model, example_inputs=x)
    remark = FORMATS["onnx"].write(converted, tmp_path / "out.onnx", SaveOptions(example=loaded.signature))
    assert remark is None
    before, after = onnx.load(written), onnx.load(tmp_path / "out.onnx")
    assert before.opset_import[0].version == after.opset_import[0].version
    for name in ("input", "output"):
        assert [i.name for i in getattr(before.graph, name)] == [i.name for i in getattr(after.graph, name)]
    with torch.no_grad():
        expected = antialias(original)(x)
    assert relative_error(expected, outputs(tmp_path / "out.onnx", x)) < 1e-4
    assert relative_error(expected, outputs(written, x)) > 1e-3


def graph(*nodes: Any, opset: int = 13) -> Any:
    """A conv without a bias of its own, and what comes after it."""
    kernel = np.random.default_rng(0).normal(size=(4, 1, 3, 3)).astype("float32")
    weights = [("w", kernel), ("b", np.ones(4, "float32")), ("s", np.array([0, -1]))]
    conv = onnx.helper.make_node("Conv", ["image", "w", "copy"], ["c"], name='"); import os', pads=[1, 1, 1, 1])
    copy = onnx.helper.make_node("Identity", ["b"], ["copy"])
    sizes = ["batch", 1, 16, 16]
    given = onnx.helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, sizes)
    result = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["batch", "n"])
    held = [onnx.numpy_helper.from_array(value, name) for name, value in weights]
    made = onnx.helper.make_graph([copy, conv, *nodes], "net", [given], [result], held)
    return onnx.helper.make_model(made, opset_imports=[onnx.helper.make_opsetid("", opset)], ir_version=8)


def pooled() -> Any:
    pool = onnx.helper.make_node("MaxPool", ["c"], ["p"], kernel_shape=[2, 2], strides=[2, 2])
    return graph(pool, onnx.helper.make_node("Reshape", ["p", "s"], ["y"]))


def test_another_opset_and_hostile_names_are_taken(tmp_path: Path) -> None:
    onnx.save(pooled(), tmp_path / "net.onnx")
    model, signature = read_onnx(tmp_path / "net.onnx")
    x = torch.randn(5, 1, 16, 16)
    with torch.no_grad():
        assert relative_error(outputs(tmp_path / "net.onnx", x), model(x)) < 1e-5
    converted = antialias(model, example_inputs=signature.inputs.args)
    remark = FORMATS["onnx"].write(converted, tmp_path / "out.onnx", SaveOptions(example=signature))
    assert remark is not None
    assert remark.startswith("opset 13 became ")
    with torch.no_grad():
        assert relative_error(converted(x), outputs(tmp_path / "out.onnx", x)) < 1e-4


def test_weights_beside_the_file_are_read_and_written_into_it(tmp_path: Path) -> None:
    onnx.save(pooled(), tmp_path / "net.onnx", save_as_external_data=True, location="weights", size_threshold=0)
    model, signature = read_onnx(tmp_path / "net.onnx")
    save_onnx(model, tmp_path / "alone.onnx", signature)
    (tmp_path / "weights").unlink()
    x = torch.randn(2, 1, 16, 16)
    with torch.no_grad():
        assert relative_error(model(x), outputs(tmp_path / "alone.onnx", x)) < 1e-5
    with pytest.raises(
        FileError, match=r"net\.onnx is no ONNX file that can be read: .*weights.*; save or copy it again"
    ):
        read_onnx(tmp_path / "net.onnx")


def test_weights_elsewhere_are_not_read(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    onnx.save(pooled(), tmp_path / "net.onnx", save_as_external_data=True, location="weights", size_threshold=0)
    proto = onnx.load(tmp_path / "net.onnx", load_external_data=False)
    for weight in proto.graph.initializer:
        next(entry for entry in weight.external_data if entry.key == "location").value = "../weights"
    (tmp_path / "sub" / "net.onnx").write_bytes(proto.SerializeToString())
    with pytest.raises(FileError, match="is no ONNX file that can be read"):
        read_onnx(tmp_path / "sub" / "net.onnx")


def test_an_operator_that_is_not_known_is_named(tmp_path: Path) -> None:
    onnx.save(graph(onnx.helper.make_node("Det", ["c"], ["y"])), tmp_path / "net.onnx")
    with pytest.raises(FileError, match=r"onnx2torch does not know the operator Det; convert the PyTorch model"):
        read_onnx(tmp_path / "net.onnx")


@pytest.mark.parametrize("cut", [10, 300])
def test_what_is_damaged_is_said(cut: int, tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(pooled().SerializeToString()[:cut])
    with pytest.raises(FileError, match=r"is no ONNX file that can be read: .*; save or copy it again"):
        read_model(tmp_path / "net.onnx")


def test_what_is_not_installed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx2torch", None)
    with pytest.raises(BlurifyError, match=r"reading ONNX needs onnx2torch, .* pip install 'blurify\[onnx\]'"):
        read_onnx(tmp_path / "net.onnx")
