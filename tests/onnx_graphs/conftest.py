"""Small graphs in ONNX's own text, converted and run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

np = pytest.importorskip("numpy")
onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")

from blurify.onnx.converting import Graph, open_graph  # noqa: E402
from blurify.planning.plan import Plan  # noqa: E402
from blurify.planning.spec import Spec  # noqa: E402


def graph(
    body: str, given: str, gives: str = "float[N,M,K,L] y", *, opset: int = 17, ir: int = 8, **weights: Any
) -> Any:
    """Parse a graph of one input, whose weights are given by name."""
    domains = f'["": {opset}, "com.microsoft": 1]'
    model = onnx.parser.parse_model(
        f"<ir_version: {ir}, opset_import: {domains}> g ({given}) => ({gives}) {{ {body} }}"
    )
    tensors = [onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()]
    model.graph.initializer.extend(tensors)
    if ir < 4:
        infos = [onnx.helper.make_tensor_value_info(t.name, t.data_type, list(t.dims)) for t in tensors]
        model.graph.input.extend(infos)
    return model


def normal(*sizes: int, kind: str = "float32", seed: int = 0) -> Any:
    return (np.random.default_rng(seed).normal(size=sizes) * 0.3).astype(kind)


def run(model: Any, **inputs: Any) -> list[Any]:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    return list(ort.InferenceSession(model.SerializeToString(), options).run(None, inputs))


def opened(model: Any, folder: Path, **asked: tuple[int, ...]) -> Graph:
    (folder / "net.onnx").write_bytes(model.SerializeToString())
    return open_graph(folder / "net.onnx", asked)


def converted(model: Any, folder: Path, spec: Spec | None = None, **asked: tuple[int, ...]) -> tuple[Any, Plan]:
    """Convert a graph, and prove that it is run and equal at one tap."""
    read = opened(model, folder, **asked)
    plan = read.plan(spec or Spec.of())
    result = read.converted(plan)
    proofs = read.prove(plan, result)
    assert proofs.ok, str(proofs)
    assert proofs.identity_error is not None, str(proofs)
    assert proofs.identity_error < 1e-5
    assert model.SerializeToString() == read.file.model.SerializeToString()
    return result, plan
