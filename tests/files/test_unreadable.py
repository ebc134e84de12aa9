"""Files that hold no model: each is one clear sentence."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from blurify.errors import BlurifyError, FileError
from blurify.files import load, read_model


def _half_of(path: Path, model: nn.Module, *, zipped: bool) -> None:
    torch.save(model, path, _use_new_zipfile_serialization=zipped)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _overwritten_middle(path: Path, model: nn.Module) -> None:
    torch.save(model, path)
    content = bytearray(path.read_bytes())
    content[100:400] = bytes(300)
    path.write_bytes(content)


def _other_zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("notes.txt", "hello")


def _torchscript_look_alike(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("net/data.pkl", b"")
        archive.writestr("net/constants.pkl", b"")


Write = Callable[[Path, nn.Module], object]
CASES: list[tuple[str, Write, str]] = [
    ("a folder", lambda p, m: p.mkdir(), "is a folder, not a model file; give the file in it, or "),
    ("empty", lambda p, m: p.write_bytes(b""), "is empty; save or copy it again."),
    ("text", lambda p, m: p.write_text("naïve words\n" * 99), "is a text file, not a file that torch.save wrote; "),
    (
        "noise",
        lambda p, m: p.write_bytes(bytes(range(255, 0, -1))),
        "is of an unknown kind, not a file that torch.save",
    ),
    (
        "truncated zip",
        lambda p, m: _half_of(p, m, zipped=True),
        "is a truncated or damaged zip archive; save or copy it",
    ),
    ("truncated legacy", lambda p, m: _half_of(p, m, zipped=False), "is damaged or made to do damage: "),
    ("damaged zip", _overwritten_middle, "holds a pickle that cannot be checked for safety "),
    ("other zip", lambda p, m: _other_zip(p), "is a zip archive that torch.save did not write; give a file that it"),
    (
        "TorchScript",
        lambda p, m: _torchscript_look_alike(p),
        "cannot be read: ",
    ),
    (
        "safetensors",
        lambda p, m: p.write_bytes(b"\x40" + bytes(7) + b'{"a":1}'),
        "is a damaged safetensors file: ",
    ),
    ("a list", lambda p, m: torch.save([1, 2], p), "holds a list, not a model or a state_dict; give a file with one."),
    ("a tensor", lambda p, m: torch.save(torch.ones(2), p), "holds a Tensor, not a model or a state_dict; give a"),
    ("empty dict", lambda p, m: torch.save({}, p), "holds an empty dict, not a model or a state_dict; give a"),
    (
        "other dict",
        lambda p, m: torch.save({"epoch": 1, "loss": 2.0}, p),
        "holds a dict of epoch, loss, not a model or",
    ),
    (
        "weights alone",
        lambda p, m: torch.save(m.state_dict(), p),
        "holds a state_dict, which is weights without an arch",
    ),
]


@pytest.mark.parametrize(("write", "sentence"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_each_says_what_is_wrong(write: Write, sentence: str, tiny: nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    write(path, tiny)
    with pytest.raises(BlurifyError) as raised:
        read_model(path)
    message = str(raised.value)
    assert message.startswith(f"{path} {sentence}")
    assert message.endswith(".")
    assert "\n" not in message


@pytest.mark.parametrize("name", ["no/model.pt", "model.pt", "x:y/z"])
def test_a_missing_file(name: str) -> None:
    with pytest.raises(FileError, match=f"^There is no file {name}; check the name.$"):
        read_model(name)


def test_a_bare_architecture_name_is_taken_for_a_file_and_explained() -> None:
    with pytest.raises(FileError) as raised:
        read_model("resnet18")
    assert str(raised.value) == "There is no file resnet18; did you mean timm:resnet18 or torchvision:resnet18."


def test_load_wants_our_own_format(tiny: nn.Module, tmp_path: Path) -> None:
    torch.save(tiny.state_dict(), tmp_path / "model.pt")
    with pytest.raises(FileError, match="is not in blurify's format; convert it first with: blurify "):
        load(tmp_path / "model.pt")
