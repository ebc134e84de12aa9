"""`blurify FILE.onnx`: what is said, written and refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.onnx_graphs.conftest import graph, normal, onnx

BODY = "f = Conv<pads=[1,1,1,1]>(x, v) p = MaxPool<kernel_shape=[2,2], strides=[2,2]>(f) y = Relu(p)"


@pytest.fixture
def net(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    made = graph(BODY, "float[1,3,32,32] x", "float[1,4,16,16] y", v=normal(4, 3, 3, 3))
    Path("net.onnx").write_bytes(made.SerializeToString())
    return Path("net.onnx")


def test_what_is_said(run, net: Path) -> None:
    result = run("net.onnx")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[1].split() == ["MaxPool#0.1", "max", "2", "4", "rewritten,", "blur", "after", "MaxPool#0.1"]
    assert "for one input of 3x32x32" in lines[3]
    assert [line.split()[:2] for line in lines[4:9]] == [
        [row, "ok"] for row in ("identity", "shapes", "weights", "graph", "file")
    ]
    assert lines[-1] == "wrote net.blur4.onnx (an ONNX graph, checked by onnx.checker)"
    assert run("plan", "net.onnx").stdout.splitlines()[-1] == "1 of 1 sites are rewritten, 0 kept"


def test_as_json(run, net: Path) -> None:
    content = json.loads(run("net.onnx", "--json", "-o", "out.onnx").stdout)
    assert content["proofs"]["ok"]
    assert content["written"] == "out.onnx"
    assert content["cost"]["after"]["macs"] > content["cost"]["before"]["macs"]
    assert json.loads(run("plan", "net.onnx", "--json").stdout)["decisions"][0]["site"] == "MaxPool#0.1"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("-o", "a.pt2"), "is an ONNX graph, which is written as one; name the output *.onnx"),
        (("--form", "class"), "which has no class to keep; remove --form."),
        (("--dynamic-size", "-o", "a.onnx"), "whose dynamic shapes are kept; remove --dynamic-size."),
        (("--arch", "timm:resnet18"), "which needs no --arch; remove it."),
        (("--input", "z=1,3,32,32"), "has no input 'z'; its inputs are x."),
        (("--input", "x=1,3,16,16"), "takes 1x3x32x32 as 'x', not 1x3x16x16."),
        (("--input", "x"), "'x' is not NAME=SIZES, such as image=1,3,224,224."),
        (("--include", "conv*"), "include pattern 'conv*' matches no site"),
        (("--max-size", "100B"), "more than the 100 that --max-size allows"),
    ],
)
def test_what_cannot_be_asked(run, net: Path, options: tuple[str, ...], message: str) -> None:
    result = run("net.onnx", *options)
    assert result.exit_code != 0
    assert message in result.stderr
    assert not list(Path().glob("*.blur*"))


def test_a_graph_has_nothing_to_recover(run, net: Path, tmp_path: Path) -> None:
    from PIL import Image

    Image.new("RGB", (80, 80)).save("a.png")
    result = run("recover", "net.onnx", "--images", ".", "-o", "a.onnx")
    assert result.exit_code == 1
    assert "which has no parameters to fit; recover the PyTorch model that it was exported from" in result.stderr


def test_a_fixed_batch_is_measured_image_by_image(run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import Image

    monkeypatch.chdir(tmp_path)
    made = graph("f = Conv(x, v) m = GlobalAveragePool(f) y = Flatten(m)", "float[1,3,32,32] x", "float[1,4] y",
                 v=normal(4, 3, 3, 3))  # fmt: skip
    onnx.save(made, "net.onnx")
    for number in range(3):
        Image.new("RGB", (70, 70), (number * 80, 90, 10)).save(f"{number}.png")
    result = run("measure", "net.onnx", "--images", ".", "--rounds", "1")
    assert result.exit_code == 0, result.output
    assert "GMAC" in result.stdout
