"""What lies beside the weights is not asked about; what a model is made of is, all at once, with flags that suffice."""

from __future__ import annotations

import io
import pickle
import re
import sys
from collections import defaultdict, deque
from collections.abc import Callable
from datetime import datetime
from enum import Enum
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from blurify.errors import BlurifyError, FileError, UnsafeFileError
from blurify.files import read_model
from blurify.files.untrusted.safety import Trust, resolve_globals
from blurify.files.untrusted.stand_ins import enum_member, may_stand_in

ARCH = "timm:test_resnet"

PACKAGE = """
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple
from torch import nn
class Config(dict):
    def __getattr__(self, name): return self[name]
@dataclass
class Settings:
    width: int = 4
class Mode(Enum):
    FAST = "fast"
class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, 2, 1)
        self.settings, self.mode, self.sizes, self.type = Settings(), Mode.FAST, Sizes(5), "theirs.Block"
    def forward(self, x): return self.conv(x)
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.block = Block()
    def forward(self, x): return self.block(x)
class Loud:
    def __new__(cls, *args): raise RuntimeError("called")
class Sizes(NamedTuple):
    width: int = 4
def swish(x): return x * x.sigmoid()
class Gated(Net):
    def __init__(self):
        super().__init__()
        self.act = swish
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """An installed package of somebody else's."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "theirs.py").write_text(PACKAGE)
    monkeypatch.syspath_prepend(tmp_path / "site")
    yield __import__("theirs")
    sys.modules.pop("theirs", None)


BESIDE: dict[str, Callable[[Any], Any]] = {
    "a NumPy number": lambda theirs: np.float64(0.5),
    "a NumPy array": lambda theirs: {"scores": [np.ones(3)]},
    "a queue": lambda theirs: deque([torch.zeros(1), 2.0], maxlen=3),
    "a path": lambda theirs: Path("runs/1"),
    "a dict with defaults": lambda theirs: defaultdict(list, {"loss": [1.0]}),
    "a date": lambda theirs: datetime(2020, 1, 1),
    "a namespace": lambda theirs: SimpleNamespace(lr=0.1),
    "a configuration that is a dict": lambda theirs: theirs.Config(lr=0.1, steps=[1, 2]),
    "settings and an enum": lambda theirs: [theirs.Settings(), theirs.Mode.FAST],
    "another model": lambda theirs: theirs.Net(),
    "an optimizer": lambda theirs: torch.optim.SGD([nn.Parameter(torch.zeros(1))], 0.1),
}


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("name", BESIDE)
def test_what_is_beside_the_weights_is_not_asked_about(
    name: str, zipped: bool, package: Any, tiny: nn.Module, tmp_path: Path
) -> None:
    path = tmp_path / "last.pth"
    content = {"state_dict": tiny.state_dict(), "beside": BESIDE[name](package)}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    loaded = sys.modules.pop("theirs")
    model = read_model(path, arch=ARCH).model
    assert all(torch.equal(value, tiny.state_dict()[key]) for key, value in model.state_dict().items())
    assert "theirs" not in sys.modules
    sys.modules["theirs"] = loaded


def test_weights_may_be_arrays(tiny: nn.Module, tmp_path: Path) -> None:
    state = {key: value.numpy() for key, value in tiny.state_dict().items()}
    torch.save({"model": state}, tmp_path / "w.pth")
    (tmp_path / "w.pkl").write_bytes(pickle.dumps({"model": state, "__author__": "them"}))
    for path in (tmp_path / "w.pth", tmp_path / "w.pkl"):
        model = read_model(path, arch=ARCH).model
        assert all(torch.equal(value, tiny.state_dict()[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_arrays_of_any_layout(protocol: int, tmp_path: Path) -> None:
    arrays = {
        "fc.weight": np.arange(6, dtype=">f4").reshape(2, 3),
        "fc.turned": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "fc.half": np.ones((2, 1), np.float16),
        "fc.count": np.array(7),
    }
    (tmp_path / "w.pkl").write_bytes(pickle.dumps(arrays, protocol=protocol))
    from blurify.files.contents import read_contents

    for key, value in read_contents(tmp_path / "w.pkl").items():
        assert value.shape == arrays[key].shape
        assert np.array_equal(value.numpy(), arrays[key])


class Evil:
    def __init__(self, function: Any, *arguments: Any) -> None:
        self.reduced = function, arguments

    def __reduce__(self) -> Any:
        return self.reduced


def _ops(*parts: bytes) -> bytes:
    return b"\x80\x04" + b"".join(parts) + b"."


PLAIN_AND_EVIL = {
    "a command": pickle.dumps({"a": Evil(exec, "raise SystemExit")}),
    "a tensor's own reader": pickle.dumps({"a": Evil(torch.load, "x")}),
    "a class that is changed": _ops(b"cnumpy\nndarray\n", b"N", b"}\x8c\x01aK\x01s", b"\x86b"),
    "room for a buffer": _ops(b"\x96" + (2**40).to_bytes(8, "little")),
    "keys that are tuples": pickle.dumps({((1, 2), 3): 4}),
    "an extension": _ops(b"\x82\x01"),
    "fewer bytes than sizes": pickle.dumps({"a.b": np.ones(3)}).replace(b"K\x03\x85", b"K\x09\x85"),
    "cut short": pickle.dumps({"a": np.ones(9)})[:-20],
    "a memo of many": _ops(b"}", b"r\xff\xff\xff\x7f", b"h\x05"),
}


@pytest.mark.parametrize("name", PLAIN_AND_EVIL)
def test_a_plain_pickle_runs_nothing(name: str, tmp_path: Path) -> None:
    (tmp_path / "w.pkl").write_bytes(PLAIN_AND_EVIL[name])
    with pytest.raises(BlurifyError) as refusal:
        read_model(tmp_path / "w.pkl", arch=ARCH)
    assert "\n" not in str(refusal.value)


def _flags(error: BlurifyError) -> dict[str, list[str]]:
    text = str(error)
    return {
        "allow": re.findall(r"--allow (\S+?)[.,]?(?=\s|$)", text),
        "allow_package": re.findall(r"--allow-package (\S+?)[.,]?(?=\s|$)", text),
    }


@pytest.mark.parametrize("kind", ["Net", "Gated"])
def test_the_flags_that_a_refusal_names_suffice(kind: str, package: Any, tmp_path: Path) -> None:
    model = getattr(package, kind)()
    model.best, model.means = np.float64(0.5), np.ones(3)
    torch.save({"model": model, "args": SimpleNamespace(lr=1)}, tmp_path / "m.pt")
    with pytest.raises(UnsafeFileError, match="so it was refused and nothing in it was run") as refusal:
        read_model(tmp_path / "m.pt")
    flags = _flags(refusal.value)
    assert flags["allow_package"] == ["theirs"]
    assert all(name.startswith("numpy.") or name == "theirs.swish" for name in flags["allow"])
    loaded = read_model(tmp_path / "m.pt", **flags).model
    assert loaded.best == 0.5
    assert type(loaded.block) is package.Block
    assert loaded.block.settings == package.Settings()
    assert loaded.block.mode is package.Mode.FAST
    assert loaded.block.sizes == (5,)


def test_a_package_is_allowed_its_classes_and_no_function(package: Any) -> None:
    names = ["theirs.Net", "theirs.Settings", "theirs.Mode", "theirs.swish", "theirs.Loud", "theirs.nn"]
    found = resolve_globals(Path("m.pt"), names, Trust(packages=["theirs"]))
    assert {name for _, name in found.pairs} == {"theirs.Net", "theirs.Settings", "theirs.Mode"}
    assert found.unknown == ["theirs.Loud", "theirs.nn", "theirs.swish"]


@pytest.mark.parametrize("called", ["Settings", "Net"])
def test_a_class_of_an_allowed_package_is_not_called(called: str, package: Any, tmp_path: Path) -> None:
    model = package.Net()
    model.extra = Evil(getattr(package, called), *([5] if called == "Settings" else []))
    torch.save(model, tmp_path / "m.pt")
    with pytest.raises(FileError, match=f"makes a theirs.{called} with arguments, where it may only be rebuilt"):
        read_model(tmp_path / "m.pt", allow_package=["theirs"])


def test_a_class_of_a_script_is_named_by_its_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "train.py").write_text(PACKAGE)
    monkeypatch.syspath_prepend(tmp_path)
    train = __import__("train")
    for kind in (train.Net, train.Block, train.Settings, train.Mode, train.Sizes):
        monkeypatch.setattr(kind, "__module__", "__main__")
        monkeypatch.setattr(sys.modules["__main__"], kind.__name__, kind, raising=False)
    torch.save(train.Net(), tmp_path / "m.pt")
    with pytest.raises(UnsafeFileError, match="a class of the script that saved it") as refusal:
        read_model(tmp_path / "m.pt")
    flags = _flags(refusal.value)
    assert flags["allow"] == ["train.Block", "train.Mode", "train.Net", "train.Settings", "train.Sizes"]
    assert type(read_model(tmp_path / "m.pt", **flags).model) is train.Net
    with pytest.raises(FileError, match=r"cannot be imported here .*, with --allow MODULE\.Lost"):
        resolve_globals(tmp_path / "m.pt", ["__main__.Lost"], Trust(["__main__.Lost"]))
    sys.modules.pop("train")


def test_a_package_that_is_missing_is_said(package: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save(package.Net(), tmp_path / "m.pt")
    monkeypatch.setattr(sys, "path", [each for each in sys.path if Path(each).name != "site"])
    monkeypatch.delitem(sys.modules, "theirs")
    with pytest.raises(UnsafeFileError, match="if you trust the file, install theirs, and add --allow"):
        read_model(tmp_path / "m.pt")


class Colour(Enum):
    RED = 1


def test_an_enum_that_is_pickled_by_getattr() -> None:
    assert enum_member(Colour, "RED") is Colour.RED
    for owner, name in ((Colour, "__class__"), (Colour, "mro"), (nn.Linear(1, 1), "forward"), (io, "open")):
        assert isinstance(enum_member(owner, name), list)


def test_what_no_training_script_saves_is_refused_at_once() -> None:
    assert not any(map(may_stand_in, ("builtins.eval", "subprocess.Popen", "torch.load", "socket.socket", "os.system")))


@pytest.mark.parametrize("key", ["student", "teacher", "run.student"])
def test_the_key_chooses(key: str, tiny: nn.Module, tmp_path: Path) -> None:
    def times(factor: int) -> dict[str, Any]:
        return {f"backbone.{name}": value * factor for name, value in tiny.state_dict().items()}

    torch.save({"run": {"student": times(2), "teacher": times(3)}, "rng": torch.zeros(9)}, tmp_path / "last.pth")
    model = read_model(tmp_path / "last.pth", arch=ARCH, key=key).model
    expected = tiny.conv1[0].weight * (3 if key == "teacher" else 2)
    assert torch.equal(model.conv1[0].weight, expected)
    with pytest.raises(FileError, match=r"under --key pupil; those that fit are at run.student.backbone"):
        read_model(tmp_path / "last.pth", arch=ARCH, key="pupil")
