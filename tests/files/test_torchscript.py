"""TorchScript archives become programs under the names of their weights, and are read before anything in them runs."""

from __future__ import annotations

import sys
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn

from blurify import antialias, plan, verify
from blurify.errors import ArgumentError, BlurifyError, FileError, UnsafeFileError
from blurify.files.program import save_program
from blurify.files.reading import read_model
from blurify.files.torchscript import read_torchscript
from blurify.tracing.inputs import number_of
from tests.conftest import randomize_statistics, relative_error


def scripted(model: nn.Module, path: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(model).save(path)
    return path


def traced(model: nn.Module, path: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.trace(model, torch.randn(1, 3, 64, 64)).save(path)
    return path


@pytest.mark.parametrize(
    ("name", "archived"),
    [pytest.param("resnet18", scripted, marks=pytest.mark.slow), ("squeezenet1_1", traced)],
)
def test_an_archive_becomes_a_program(name: str, archived: Callable[..., Path], tmp_path: Path) -> None:
    original = randomize_statistics(torchvision.models.get_model(name, weights=None)).eval()
    path = archived(original, tmp_path / "net.pt")
    loaded = read_model(path, input_size=(3, 64, 64))
    assert (loaded.form, loaded.arch, loaded.signature) == ("torchscript", None, None)
    assert list(loaded.model.state_dict()) == list(original.state_dict())
    x = torch.randn(3, 3, 65 if archived is scripted else 64, 64)
    converted = antialias(loaded.model, example_inputs=x)
    mine, theirs = plan(original), plan(loaded.model, example_inputs=x)
    assert [d.kind for d in mine.rewritten] == [d.kind for d in theirs.rewritten]
    convs = [[d.site for d in p.rewritten if d.kind == "conv"] for p in (mine, theirs)]
    assert convs[0] == convs[1]
    assert verify(loaded.model, converted, x).ok
    save_program(converted, tmp_path / "net.pt2", torch.randn(1, 3, 64, 64), dynamic_size=archived is scripted)
    program = torch.export.load(tmp_path / "net.pt2")
    # Which comes first, parameters or buffers, is left to torch.
    assert sorted(program.state_dict) == sorted(original.state_dict())
    with torch.no_grad():
        assert relative_error(antialias(original)(x), program.module()(x)) < 1e-4


class Saves(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        torch.save(x, "canary")
        return x


class Maps(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.from_file("canary", True, 4)


class SavesWhenLoaded(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.training = False

    @torch.jit.export
    def __getstate__(self) -> int:
        return 0

    @torch.jit.export
    def __setstate__(self, state: int) -> None:
        self.training = False

    def forward(self, x: Tensor) -> Tensor:
        return x


@pytest.mark.parametrize(("hostile", "word"), [(Saves, "save"), (Maps, "from_file"), (SavesWhenLoaded, "__setstate__")])
def test_what_does_more_than_compute_is_refused(hostile: Any, word: str, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    path = scripted(hostile(), tmp_path / "net.pt")
    with pytest.raises(UnsafeFileError, match=rf"uses the name '{word}' in code/.*, which can do more than compute"):
        read_torchscript(path)
    assert [file.name for file in tmp_path.iterdir()] == ["net.pt"]


def changed(path: Path, change: Callable[[str, bytes], bytes]) -> None:
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, change(name, content))


@pytest.fixture(scope="module")
def conv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return scripted(nn.Sequential(nn.Conv2d(3, 4, 3, 2)), tmp_path_factory.mktemp("conv") / "conv.pt")


def copied(path: Path, folder: Path) -> Path:
    target = folder / "net.pt"
    target.write_bytes(path.read_bytes())
    return target


CHANGES: dict[str, tuple[Callable[[str, bytes], bytes], type[FileError], str]] = {
    "operators of others": (
        lambda name, text: text.replace(b"torch.conv2d", b"ops.mine.conv2d"),
        UnsafeFileError,
        "uses the name 'ops.mine.conv2d'",
    ),
    "an operator of torchvision that reads files": (
        lambda name, text: text.replace(b"torch.conv2d", b"ops.torchvision.decode_image"),
        UnsafeFileError,
        "uses the name 'ops.torchvision.decode_image'",
    ),
    "what names classes of others": (
        lambda name, text: text + b"\n#__torch__.torch.classes.a.B" if name.endswith(".py") else text,
        UnsafeFileError,
        "uses the name 'classes'",
    ),
    "weights left out": (
        lambda name, text: text.replace(b"torch.conv2d", b"ops.prim.ConstantMKLDNNTensor"),
        FileError,
        "was saved after torch.jit.optimize_for_inference, which leaves its weights out",
    ),
    "an operator's name in parts": (
        lambda name, text: text.replace(b"torch.conv2d", b"ops .\\\n image.conv2d"),
        UnsafeFileError,
        "uses the name 'ops",
    ),
    "a class of others": (
        lambda name, text: text + b"__torch__.torch.classes.a.B" if name.endswith("data.pkl") else text,
        UnsafeFileError,
        "holds an object of a class outside TorchScript",
    ),
    "text cut short": (
        lambda name, text: text[:40] if name.endswith(".py") else text,
        FileError,
        "cannot be read: .*; save or copy it again",
    ),
    "a pickle cut short": (
        lambda name, text: text[:40] if name.endswith("data.pkl") else text,
        FileError,
        "cannot be read: .*; save or copy it again",
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_was_changed_is_refused(name: str, conv: Path, tmp_path: Path) -> None:
    change, kind, message = CHANGES[name]
    path = copied(conv, tmp_path)
    changed(path, change)
    with pytest.raises(kind, match=message) as refusal:
        read_torchscript(path)
    assert "\n" not in str(refusal.value)


def test_what_is_no_part_of_an_archive_is_refused(conv: Path, tmp_path: Path) -> None:
    path = copied(conv, tmp_path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("net/code/run.so", b"")
    with pytest.raises(UnsafeFileError, match=r"holds 'net/code/run\.so', which is no part of a program"):
        read_torchscript(path)


def test_what_unpacks_to_too_much_is_refused(conv: Path, tmp_path: Path) -> None:
    path = copied(conv, tmp_path)
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("net/code/more.py", b" " * 2**27)
    with pytest.raises(FileError, match="unpacks to more than 64 MiB"):
        read_torchscript(path)


def test_the_size_that_it_takes_is_asked_for(conv: Path, tmp_path: Path) -> None:
    with pytest.raises(
        ArgumentError, match=r"does not accept an input of size 1,8,8: .*; name the size .* --input-size"
    ):
        read_torchscript(conv, (1, 8, 8))


class Loops(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        while bool(x.sum() > 0):
            x = x - 1
        return x


def test_what_the_converter_does_not_know_is_said(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"PyTorch's converter cannot make a program of .*; convert the nn\.Module"):
        read_torchscript(scripted(Loops(), tmp_path / "net.pt"))


def test_a_torch_without_the_converter_is_said(conv: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch._export.converter", None)
    with pytest.raises(BlurifyError, match=r"torch .* has no converter of TorchScript, .*; give the nn\.Module"):
        read_torchscript(conv)


@pytest.mark.filterwarnings("ignore")
def test_names_of_an_archive_s_own_classes_may_be_any(tmp_path: Path) -> None:
    model = torchvision.ops.Conv2dNormActivation(3, 4, stride=2).eval()
    loaded = read_model(traced(model, tmp_path / "net.pt"), input_size=(3, 64, 64)).model
    x = torch.randn(2, 3, 64, 64)
    assert relative_error(model(x), loaded(x)) < 1e-5


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("frozen", [False, True])
def test_half_precision_is_run_in_half_precision(frozen: bool, tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.ReLU()).half().eval()
    archive = torch.jit.trace(model, torch.zeros(1, 3, 8, 8, dtype=torch.half))
    (torch.jit.freeze(archive) if frozen else archive).save(tmp_path / "net.pt")
    loaded = read_model(tmp_path / "net.pt", input_size=(3, 8, 8)).model
    assert number_of(loaded).dtype is torch.half


class Detects(nn.Module):
    def forward(self, images: list[Tensor]) -> Tensor:
        return images[0]


def test_other_arguments_than_an_image_are_said(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"takes \(images: List\[Tensor\]\), and PyTorch's converter"):
        read_torchscript(scripted(Detects(), tmp_path / "net.pt"))
