"""What is not edited stays as it is: metadata, names, weights, further files, subgraphs; and files that are wrong."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from blurify.errors import ArgumentError, FileError
from blurify.onnx.converting import open_graph
from blurify.onnx.reading import copy_further
from blurify.planning.spec import Spec
from blurify.sites import Reason
from tests.onnx_graphs.conftest import converted, graph, normal, np, onnx, opened, run

POOL = "MaxPool<kernel_shape=[2,2], strides=[2,2]>"
IMAGE = "float[N,3,16,16] x"


def kernels() -> dict[str, Any]:
    return {"v": normal(4, 3, 3, 3), "w": normal(4, 4, 3, 3)}


def pooled(**more: Any) -> Any:
    body = f"f = Conv<pads=[1,1,1,1]>(x, v) r = Relu(f) p = {POOL}(r) y = Conv(p, w)"
    return graph(body, IMAGE, "float[N,4,6,6] y", **kernels(), **more)


def test_metadata_axes_and_weights_stay(tmp_path: Path) -> None:
    made = pooled()
    made.metadata_props.add(key="names", value="{0: 'cat'}")
    made.graph.doc_string, made.producer_name, made.model_version = "a graph", "someone", 7
    result, _ = converted(made, tmp_path)
    for field in ("metadata_props", "opset_import", "producer_name", "model_version", "ir_version"):
        assert getattr(result, field) == getattr(made, field)
    assert list(result.graph.input) == list(made.graph.input)
    assert list(result.graph.output) == list(made.graph.output)
    assert [t for t in result.graph.initializer if t.name in "vw"] == list(made.graph.initializer)
    untouched = [node for node in made.graph.node if node.op_type not in ("MaxPool",)]
    assert [node for node in result.graph.node if node in untouched] == untouched


def test_one_weight_of_several_convolutions_is_written_once(tmp_path: Path) -> None:
    body = "a = Conv<pads=[1,1,1,1], strides=[2,2]>(f, w) b = Conv<pads=[1,1,1,1], strides=[2,2]>(f, w) y = Add(a, b)"
    made = graph(f"f = Conv<pads=[1,1,1,1]>(x, v) {body}", IMAGE, **kernels())
    result, plan = converted(made, tmp_path)
    assert len(plan.rewritten) == 2
    assert [tuple(t.dims) for t in result.graph.initializer].count((4, 4, 3, 3)) == 1
    assert [tuple(t.dims) for t in result.graph.initializer].count((4, 1, 4, 4)) == 1


@pytest.mark.parametrize("gives", ["b, a", "b", "a, b"])
def test_outputs_of_a_split_keep_their_order(gives: str, tmp_path: Path) -> None:
    typed = ", ".join(f"float[N,2,8,8] {name}" for name in gives.split(", "))
    made = graph(f"f = Conv<pads=[1,1,1,1]>(x, v) p = {POOL}(f) a, b = Split<axis=1>(p, s)", IMAGE, typed,
                 v=normal(4, 3, 3, 3), s=np.array([2, 2]))  # fmt: skip
    result, _ = converted(made, tmp_path)
    x = normal(1, 3, 16, 16)
    assert [a.shape for a in run(made, x=x)] == [a.shape for a in run(result, x=x)]


def test_operators_that_nobody_mirrors_are_left_alone(tmp_path: Path) -> None:
    body = f"p = {POOL}(x) t = ConvTranspose<strides=[2,2], output_shape=[16,16]>(p, k) y = Det(t)"
    made = graph(body, IMAGE, "float[N,2] y", k=normal(3, 2, 3, 3))
    result, plan = converted(made, tmp_path)
    assert [d.action.value for d in plan.decisions] == ["rewrite", "keep"]
    assert [n for n in result.graph.node if n.op_type in ("ConvTranspose", "Det")] == list(made.graph.node)[1:]


def test_nodes_of_one_name_and_of_none(tmp_path: Path) -> None:
    made = pooled()
    for node in made.graph.node:
        node.name = "same" if node.op_type in ("Conv", "MaxPool") else ""
    made.graph.node[3].name = ""
    result = opened(made, tmp_path)
    plan = result.plan(Spec.of())
    names = [node.name for node in result.converted(plan).graph.node]
    assert [d.site for d in plan.decisions] == ["same#0.2"]
    assert names.count("same") == 2


BRANCHES = f"""
    f = Conv<pads=[1,1,1,1]>(x, v)
    y = If (c) <
        then_branch = g1 () => (float[N,M,K,L] y1) {{ q = Conv<pads=[1,1,1,1], strides=[2,2]>(f, w) y1 = Relu(q) }},
        else_branch = g2 () => (float[N,M,K,L] y2) {{ q = Sigmoid(f) y2 = {POOL}(q) }}
    >
"""


def test_both_branches_of_an_if_are_converted(tmp_path: Path) -> None:
    made = graph(BRANCHES, f"{IMAGE}, bool c", **kernels())
    result, plan = converted(made, tmp_path)
    assert [(d.kind.value, d.action.value) for d in plan.decisions] == [("conv", "rewrite"), ("max", "rewrite")]
    x = normal(1, 3, 16, 16)
    for choice in (True, False):
        before, after = (run(each, x=x, c=np.array(choice))[0] for each in (made, result))
        assert before.shape == after.shape
        assert abs(before - after).max() > 1e-3


def test_a_stem_in_a_branch_is_a_stem(tmp_path: Path) -> None:
    body = """y = If (c) <then_branch = g1 () => (float[N,M,K,L] y1) { y1 = Conv<strides=[2,2]>(x, v) },
              else_branch = g2 () => (float[N,M,K,L] y2) { y2 = Conv<strides=[2,2]>(x, v) }>"""
    plan = opened(graph(body, f"{IMAGE}, bool c", v=normal(4, 3, 3, 3)), tmp_path).plan(Spec.of())
    assert [d.reason for d in plan.decisions] == [Reason.STEM] * 2


def test_the_body_of_a_loop_is_converted(tmp_path: Path) -> None:
    body = f"""
        t = Constant<value = int64 {{2}}>() c = Constant<value = bool {{1}}>()
        y = Loop (t, c) <body = b (int64 i, bool k) => (bool j, float[N,M,K,L] s) {{ j = Identity(k) s = {POOL}(x) }}>
    """
    result, plan = converted(graph(body, IMAGE, "float[T,N,M,K,L] y"), tmp_path)
    assert len(plan.rewritten) == 1
    assert run(result, x=normal(1, 3, 16, 16))[0].shape == (2, 1, 3, 8, 8)


def test_quantized_convolutions_are_blurred_where_they_are_floats_again(tmp_path: Path) -> None:
    body = """
        q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) f = Conv<pads=[1,1,1,1]>(d, v)
        e = DequantizeLinear(k, s, n) c = Conv<pads=[1,1,1,1], strides=[2,2]>(f, e)
        u = QuantizeLinear(c, s, z) o = DequantizeLinear(u, s, z) y = Conv<pads=[1,1,1,1]>(o, e)
    """
    weights = {"s": np.float32(0.01), "z": np.uint8(128), "n": np.int8(0), "v": normal(4, 3, 3, 3)}
    kernel = np.random.default_rng(0).integers(-60, 60, (4, 4, 3, 3)).astype("int8")
    read = opened(graph(body, IMAGE, **weights, k=kernel), tmp_path)
    plan = read.plan(Spec.of())
    assert read.prove(plan, read.converted(plan)).ok
    (decision,) = plan.rewritten
    assert decision.landing == "DequantizeLinear#0.6"


def test_weights_listed_as_inputs_are_weights(tmp_path: Path) -> None:
    made = pooled(ir=3)
    result, plan = converted(made, tmp_path)
    assert len(plan.rewritten) == 1
    assert list(result.graph.input) == list(made.graph.input)


def test_weights_in_constant_nodes(tmp_path: Path) -> None:
    made = pooled()
    held = {tensor.name: tensor for tensor in made.graph.initializer}
    nodes = [onnx.helper.make_node("Constant", [], [name], value=tensor) for name, tensor in held.items()]
    body = [*nodes, *made.graph.node]
    del made.graph.initializer[:], made.graph.node[:]
    made.graph.node.extend(body)
    assert len(converted(made, tmp_path)[1].rewritten) == 1


def test_what_was_converted_is_left_alone(tmp_path: Path) -> None:
    four = "c = Conv<pads=[1,1,1,1], strides=[4,4]>(f, w) r = Relu(c)"
    body = f"f = Conv<pads=[1,1,1,1]>(x, v) {four} y = AveragePool<kernel_shape=[2,2], strides=[2,2]>(r)"
    result, plan = converted(graph(body, "float[N,3,32,32] x", **kernels()), tmp_path)
    assert len(plan.rewritten) == 2
    again = opened(result, tmp_path).plan(Spec.of())
    assert again.rewritten == ()
    assert {d.reason for d in again.decisions} == {Reason.ALREADY_ANTIALIASED}


def beside(folder: Path, location: str = "weights.bin") -> Path:
    onnx.save(pooled(), folder / "net.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
    proto = onnx.load(folder / "net.onnx", load_external_data=False)
    for tensor in proto.graph.initializer:
        next(entry for entry in tensor.external_data if entry.key == "location").value = location
    (folder / "net.onnx").write_bytes(proto.SerializeToString())
    return folder / "net.onnx"


def test_weights_beside_the_file_stay_there(tmp_path: Path) -> None:
    read = open_graph(beside(tmp_path))
    plan = read.plan(Spec.of())
    result = read.converted(plan)
    proofs = read.prove(plan, result)
    assert proofs.ok
    assert proofs.identity_error is not None
    assert [t for t in result.graph.initializer if t.name in "vw"] == list(read.file.model.graph.initializer)
    (tmp_path / "out").mkdir()
    (copy,) = copy_further(read.file, tmp_path / "out" / "net.onnx", force=False)
    assert copy.read_bytes() == (tmp_path / "weights.bin").read_bytes()
    with pytest.raises(FileError, match=r"lie in weights\.bin, and there is another file of that name"):
        copy_further(read.file, tmp_path / "out" / "net.onnx", force=False)


@pytest.mark.parametrize("location", ["../weights.bin", "/etc/hostname", "a/../../weights.bin", ""])
def test_weights_elsewhere_are_refused(location: str, tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    with pytest.raises(FileError, match="which is not in its folder"):
        open_graph(beside(tmp_path / "sub", location))


def test_a_link_to_weights_elsewhere_is_refused(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    path = beside(tmp_path / "sub")
    os.rename(path.with_name("weights.bin"), tmp_path / "secret")
    path.with_name("weights.bin").symlink_to(tmp_path / "secret")
    with pytest.raises(FileError, match="which is not in its folder"):
        open_graph(path)


def test_weights_that_are_missing_or_cut_short_are_named(tmp_path: Path) -> None:
    path = beside(tmp_path)
    held = (tmp_path / "weights.bin").read_bytes()
    (tmp_path / "weights.bin").write_bytes(held[:100])
    with pytest.raises(FileError, match="which ends before them; copy that file again"):
        open_graph(path)
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(FileError, match=r"net\.onnx has weights in 'weights\.bin', which is not there"):
        open_graph(path)


@pytest.mark.parametrize("cut", [10, 200])
def test_what_is_damaged_is_said(cut: int, tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(pooled().SerializeToString()[:cut])
    with pytest.raises(FileError, match=r"is no ONNX file that can be read: .*; save or copy it again"):
        open_graph(tmp_path / "net.onnx")


def test_huge_tensors_are_refused(tmp_path: Path) -> None:
    made = pooled()
    made.graph.initializer[0].dims[:] = [2**40, 3, 3, 3]
    with pytest.raises(FileError, match=r"net\.onnx declares a tensor 'v' of sizes"):
        opened(made, tmp_path)


def test_a_file_that_is_not_run_is_converted_and_says_so(tmp_path: Path) -> None:
    made = graph(f'f = Unheard<domain="com.microsoft">(x) p = {POOL}(x) y = Add(p, p)', IMAGE)
    made.graph.node[0].domain = "my.own"
    made.opset_import.add(domain="my.own", version=1)
    read = opened(made, tmp_path)
    plan = read.plan(Spec.of())
    proofs = read.prove(plan, read.converted(plan))
    assert proofs.ok
    assert proofs.identity_error is None
    assert "after shape inference alone" in str(proofs)


def test_inputs_that_are_asked_for_must_fit(tmp_path: Path) -> None:
    made = pooled()
    with pytest.raises(ArgumentError, match=r"has no input 'z'; its inputs are x\."):
        opened(made, tmp_path, z=(1, 3, 16, 16))
    with pytest.raises(ArgumentError, match=r"takes Nx3x16x16 as 'x', not 1x3x8x8\."):
        opened(made, tmp_path, x=(1, 3, 8, 8))
    assert opened(made, tmp_path, x=(5, 3, 16, 16)).trial.sizes == {"x": (5, 3, 16, 16)}


def test_large_files_are_converted_without_being_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("blurify.onnx.converting.MOST_BYTES", 1000)
    read = open_graph(beside(tmp_path))
    plan = read.plan(Spec.of())
    proofs = read.prove(plan, read.converted(plan))
    assert proofs.ok
    assert str(proofs).startswith("identity  skip    its weights have 0.0 GiB")


def test_inputs_of_a_state_are_as_long_as_the_batch(tmp_path: Path) -> None:
    made = graph(f"f = Concat<axis=1>(x, s) y = {POOL}(f)", "float[b,3,H,W] x, float[b,1,H,W] s")
    assert opened(made, tmp_path).trial.sizes == {"x": (1, 3, 224, 224), "s": (1, 1, 224, 224)}


def test_types_behind_operators_of_other_domains(tmp_path: Path) -> None:
    """Shape inference does not know `QLinearAdd`, whose integers are pooled."""
    pools = f"p = {POOL}(a) r = {POOL}(p)"
    body = f"q = QuantizeLinear(x, s, z) a = com.microsoft.QLinearAdd(q, s, z, q, s, z, s, z) {pools}"
    made = graph(f"{body} y = DequantizeLinear(r, s, z)", IMAGE, s=np.float32(0.02), z=np.int8(3))
    read = opened(made, tmp_path)
    plan = read.plan(Spec.of(3))
    proofs = read.prove(plan, read.converted(plan))
    assert (proofs.ok, len(plan.rewritten), proofs.identity_error) == (True, 2, 0.0), str(proofs)


def test_small_weights_in_other_files_are_known(tmp_path: Path) -> None:
    result, _ = converted(pooled(), tmp_path)
    onnx.save(result, tmp_path / "again.onnx", save_as_external_data=True, location="more.bin", size_threshold=0)
    plan = open_graph(tmp_path / "again.onnx").plan(Spec.of())
    assert [d.reason for d in plan.decisions] == [Reason.ALREADY_ANTIALIASED]
