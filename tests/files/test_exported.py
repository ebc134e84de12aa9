"""A `torch.export` archive is a program: it is read without anything in it being run but operators on tensors."""

from __future__ import annotations

import contextlib
import io
import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from blurify.errors import FileError, UnsafeFileError
from blurify.files.program import read_program, save_program
from blurify.files.untrusted.operators import is_known_operator
from tests.files.conftest import RunsACommand

Entries = dict[str, bytes]


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3, 2, 1), nn.BatchNorm2d(4)
        self.register_buffer("scale", torch.tensor([2.0]), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x)).relu().mean((2, 3)) * self.scale


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("archive") / "net.pt2"
    save_program(Net(), path, torch.randn(1, 3, 16, 16), dynamic_size=True)
    return path


def tampered(archive: Path, folder: Path, change: Callable[[Entries], None]) -> Path:
    with zipfile.ZipFile(archive) as read:
        entries = {name.partition("/")[2]: read.read(name) for name in read.namelist()}
    change(entries)
    path = folder / "tampered.pt2"
    with zipfile.ZipFile(path, "w") as written:
        for name, content in entries.items():
            written.writestr(f"net/{name}", content)
    return path


def in_json(name: str, change: Callable[[Any], None]) -> Callable[[Entries, Path], None]:
    def changed(entries: Entries, _: Path) -> None:
        content = json.loads(entries[name])
        change(content)
        entries[name] = json.dumps(content).encode()

    return changed


def in_graph(change: Callable[[Any], None]) -> Callable[[Entries, Path], None]:
    return in_json("models/model.json", change)


def pickled(canary: Path) -> bytes:
    buffer = io.BytesIO()
    torch.save(RunsACommand(canary), buffer)
    return buffer.getvalue()


def put(name: str) -> Callable[[Entries, Path], None]:
    return lambda entries, canary: entries.update({name: pickled(canary)})


def weights_as_pickle(entries: Entries, canary: Path) -> None:
    content = json.loads(entries["data/weights/model_weights_config.json"])
    payload = content["config"]["conv.weight"]
    payload["use_pickle"] = True
    entries[f"data/weights/{payload['path_name']}"] = pickled(canary)
    entries["data/weights/model_weights_config.json"] = json.dumps(content).encode()


def first_node(graph: Any) -> Any:
    return graph["graph_module"]["graph"]["nodes"][0]


def calls(target: str) -> Callable[[Entries, Path], None]:
    return in_graph(lambda graph: first_node(graph).update(target=target))


def structure(of: str, text: str) -> Callable[[Entries, Path], None]:
    return in_graph(lambda graph: graph["graph_module"]["module_call_graph"][0]["signature"].update({of: text}))


def first_size(graph: Any, text: str) -> None:
    graph["graph_module"]["graph"]["tensor_values"]["x"]["sizes"][0]["as_expr"]["expr_str"] = text


def renamed_input(graph: Any, name: str) -> None:
    graph["graph_module"]["module_call_graph"][0]["signature"]["forward_arg_names"] = [name]


COMMAND = "__import__('os').system('touch canary')"
FACTORY = (
    '[1, {"type": "collections.defaultdict", "context": "{\\"default_factory_module\\": 0}", "children_spec": []}]'
)
ENUM = '[1, {"type": "builtins.dict", "context": "[{\\"__enum__\\": true}]", "children_spec": []}]'
HOSTILE: dict[str, tuple[Callable[[Entries, Path], None], str]] = {
    "a pickled weight": (weights_as_pickle, "holds 'conv.weight' as a pickle"),
    "all weights as one pickle": (
        put("data/weights/model.pt"),
        r"holds 'net/data/weights/model\.pt', which is no part",
    ),
    "constants as a pickle": (put("data/constants/model.pt"), "which is no part of a program"),
    "an object": (put("data/constants/custom_obj_0"), "which is no part of a program"),
    "a library": (put("data/aotinductor/model/m.so"), "which is no part of a program"),
    "a second model": (put("models/other.json"), "which is no part of a program"),
    "a command as operator": (calls("torch.os.system"), r"calls torch\.os\.system, which is not among the operators"),
    "another as operator": (calls("_operator.methodcaller"), "not among the operators"),
    "an operator that writes files": (calls("torch.ops.aten.save.default"), "not among the operators"),
    "an operator that maps files": (calls("torch.ops.aten.from_file.default"), "not among the operators"),
    "a command as size": (in_graph(lambda graph: first_size(graph, COMMAND)), "in the place of a size"),
    "endless arithmetic as size": (in_graph(lambda graph: first_size(graph, "9**9**9**9")), "in the place of a size"),
    "a command as name": (in_graph(lambda g: renamed_input(g, f"x={COMMAND}")), "in the place of a name"),
    "a line of code as name": (in_graph(lambda g: first_node(g).update(name="x\nimport os")), "in the place of a name"),
    "a quote in a weight's name": (
        in_json(
            "data/weights/model_weights_config.json", lambda c: c["config"].update({"a'b": c["config"]["conv.bias"]})
        ),
        "in the place of a name",
    ),
    "a type that imports": (structure("in_spec", FACTORY), r"takes or gives a collections\.defaultdict"),
    "a key that imports": (structure("out_spec", ENUM), "a key of a dict that is a dict"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_would_run_something_is_refused(name: str, archive: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    change, message = HOSTILE[name]
    path = tampered(archive, tmp_path, lambda entries: change(entries, tmp_path / "canary"))
    with pytest.raises(UnsafeFileError, match=message) as refusal:
        read_program(path)
    assert "\n" not in str(refusal.value)
    assert os.listdir(tmp_path) == ["tampered.pt2"]


def guarded(entries: Entries, _: Path) -> None:
    in_graph(lambda graph: graph.update(guards_code=[COMMAND]))(entries, _)


@pytest.mark.parametrize("change", [put("data/sample_inputs/model.pt"), guarded])
def test_what_nobody_needs_is_not_looked_at(
    change: Callable[[Entries, Path], None], archive: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    """Torch would run both: the one when it reads, the other when the program is called."""
    monkeypatch.chdir(tmp_path)
    model, signature = read_program(tampered(archive, tmp_path, lambda e: change(e, tmp_path / "canary")))
    assert model(*signature.inputs.args).shape == (2, 4)
    assert os.listdir(tmp_path) == ["tampered.pt2"]


def test_torch_itself_runs_what_is_refused_here(archive: Path, tmp_path: Path) -> None:
    """The refusals are of something."""
    canary = tmp_path / "canary"
    path = tampered(archive, tmp_path, lambda entries: put("data/sample_inputs/model.pt")(entries, canary))
    with contextlib.suppress(Exception):
        torch.export.load(path)
    assert canary.exists()


def huge(entries: Entries) -> None:
    def declare(content: Any) -> None:
        meta = content["config"]["conv.bias"]["tensor_meta"]
        meta.update(sizes=[{"as_int": 2**40}], strides=[{"as_int": 0}])

    in_json("data/weights/model_weights_config.json", declare)(entries, Path())


def huge_and_empty(entries: Entries) -> None:
    huge(entries)
    payload = json.loads(entries["data/weights/model_weights_config.json"])["config"]["conv.bias"]
    entries[f"data/weights/{payload['path_name']}"] = b""


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda e: e.pop("data/constants/model_constants_config.json"), "without data/constants"),
        (lambda e: e.update({"models/model.json": e["models/model.json"][:900]}), "is a damaged torch.export archive"),
        (lambda e: e.update({"models/model.json": b"[]"}), "is a damaged torch.export archive"),
        (lambda e: e.update({"data/weights/weight_0": b"abc"}), "cannot be read: .*; export the model again"),
        (huge, "declares more values than it has"),
        (huge_and_empty, "is a damaged torch.export archive"),
        (in_graph(lambda g: g["schema_version"].update(major=99)), "cannot be read: .*; export the model again"),
    ],
)
def test_what_is_damaged_is_said(change: Any, message: str, archive: Path, tmp_path: Path) -> None:
    def changed(entries: Entries) -> None:
        change(entries, tmp_path) if change.__name__ == "changed" else change(entries)

    with pytest.raises(FileError, match=message):
        read_program(tampered(archive, tmp_path, changed))


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("torch.ops.aten.conv2d.default", True),
        ("torch.ops.aten.sym_size.int", True),
        ("_operator.floordiv", True),
        ("torch.ops.aten.__class__.default", False),
        ("torch.ops.aten.conv2d.__class__", False),
        ("torch.ops.torchvision.nms.default", True),
        ("torch.ops.torchvision.write_file.default", False),
        ("torch.load", False),
        ("", False),
    ],
)
def test_operators_that_compute_are_known(name: str, known: bool) -> None:
    assert is_known_operator(name) is known
