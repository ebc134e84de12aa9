"""Files made to do damage: each is refused in one sentence, at once, and nothing of it is run."""

from __future__ import annotations

import builtins
import io
import os
import pickle
import struct
import time
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import blurify
from blurify.errors import BlurifyError, FileError, UnsafeFileError
from blurify.files import load, native, read_model
from blurify.files.untrusted.container import read_object
from blurify.files.untrusted.pickled import MOST_EXPANDED

SECONDS = 5.0


class Call:
    """Its pickle calls a function."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.function, self.arguments


def _storage(kind: str = "FloatStorage", key: str = "0", numel: int = 4) -> bytes:
    parts = _text("storage") + f"ctorch\n{kind}\n".encode() + _text(key) + _text("cpu") + _number(numel)
    return b"(" + parts + b"tQ"


def _text(text: str) -> bytes:
    return b"X" + struct.pack("<I", len(text)) + text.encode()


def _number(number: int) -> bytes:
    data = pickle.dumps(number, protocol=2)
    return data[2:-1]


def _numbers(*numbers: int) -> bytes:
    return b"(" + b"".join(map(_number, numbers)) + b"t"


def _tensor(size: tuple[int, ...], stride: tuple[int, ...], offset: int = 0, storage: bytes | None = None) -> bytes:
    held = _storage() if storage is None else storage
    rest = _number(offset) + _numbers(*size) + _numbers(*stride) + b"\x89ccollections\nOrderedDict\n)R"
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + held + rest + b"tR"


def _state(value: bytes) -> bytes:
    return b"\x80\x02}" + _text("weight") + value + b"s."


def _archive(path: Path, code: bytes, **extra: Any) -> None:
    """An archive as torch writes it, with any pickle and 16 bytes under `data/0`."""
    with zipfile.ZipFile(path, "w", extra.pop("form", zipfile.ZIP_STORED)) as archive:
        records = {"data.pkl": code, "byteorder": b"little", "data/0": bytes(16), "version": b"3\n"} | extra
        for name, content in records.items():
            archive.writestr(f"archive/{name}", content)


def test_the_hand_made_archive_is_one_that_can_be_read(tmp_path: Path) -> None:
    _archive(tmp_path / "m.pt", _state(_tensor((2, 2), (2, 1))))
    assert torch.equal(read_object(tmp_path / "m.pt")["weight"], torch.zeros(2, 2))


HUGE = _numbers(10**6, 10**6)
NESTED = _text("a") + b"q\x00h\x00\x86" * 60
LINEAR = b"ctorch.nn.modules.linear\nLinear\n"
# name, the value of the one weight, what the message says
CODES = [
    ("storage larger than its record", _tensor((4,), (1,), storage=_storage(numel=10**9)), "says that a storage has"),
    ("storage smaller than its record", _tensor((1,), (1,), storage=_storage(numel=1)), "says that a storage has 4"),
    ("storage that is not there", _tensor((4,), (1,), storage=_storage(key="7")), "lacks the numbers of its storage"),
    ("storage outside", _tensor((4,), (1,), storage=_storage(key="../../etc/passwd")), "lacks the numbers of its"),
    ("tensor beyond its storage", _tensor((10**12,), (1,)), "has a tensor of 4000000000000 bytes in a storage of 16"),
    ("stride beyond its storage", _tensor((2,), (10**6,)), "in a storage of 16"),
    ("offset beyond its storage", _tensor((2,), (1,), offset=3), "in a storage of 16"),
    ("negative offset", _tensor((1,), (1,), offset=-1), "holds a damaged pickle"),
    ("negative stride", _tensor((2,), (-1,), offset=1), "holds a damaged pickle"),
    ("expanded", _tensor((10**6, 10**6), (0, 0)), "has expanded tensors that would take 4000000000000 bytes"),
    ("tensor changed later", _tensor((1,), (1,)) + b")b", "changes a tensor after it was made"),
    ("layer of any size", LINEAR + HUGE + b"R", "calls torch.nn.modules.linear.Linear"),
    (
        "layer by way of a rebuild",
        b"ctorch._tensor\n_rebuild_from_type_v2\n(" + LINEAR + b"ctorch\nTensor\n" + HUGE + b"}tR",
        "calls torch.nn.modules.linear.Linear",
    ),
    ("tensor of any size", b"ctorch\nTensor\n" + HUGE + b"R", "calls torch.Tensor"),
    ("new tensor of any size", b"ctorch\nFloatTensor\n" + HUGE + b"\x81", "makes a torch.FloatTensor with arguments"),
    ("bytearray of any size", b"cbuiltins\nbytearray\n" + _numbers(10**11) + b"R", "makes a bytearray of a size"),
    ("storage of any size", b"ctorch.storage\nUntypedStorage\n" + HUGE + b"R", "calls torch.storage.UntypedStorage"),
    ("key that hashes for ever", b"}" + NESTED + b"Ns", "has a dict whose keys are neither text nor numbers"),
    ("set that hashes for ever", b"cbuiltins\nset\n](" + NESTED + b"e\x85R", "has a set of what is neither text nor"),
]


@pytest.mark.parametrize(("value", "sentence"), [case[1:] for case in CODES], ids=[case[0] for case in CODES])
def test_what_a_pickle_would_make_is_known_before(value: bytes, sentence: str, tmp_path: Path) -> None:
    _archive(tmp_path / "m.pt", _state(value))
    start = time.monotonic()
    with pytest.raises(FileError) as raised:
        read_object(tmp_path / "m.pt")
    assert sentence in str(raised.value)
    assert time.monotonic() - start < SECONDS


def test_expanded_buffers_of_ordinary_size_are_read(tmp_path: Path) -> None:
    torch.save({"ids": torch.zeros(1).expand(1000, 100)}, tmp_path / "m.pt")
    assert read_object(tmp_path / "m.pt")["ids"].shape == (1000, 100)
    many = {str(at): torch.zeros(1).expand(MOST_EXPANDED // 12) for at in range(4)}
    torch.save(many, tmp_path / "m.pt")
    with pytest.raises(FileError, match="expanded tensors that would take"):
        read_object(tmp_path / "m.pt")


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("function", [os.system, builtins.eval, builtins.exec, torch.hub.load, torch.load, open])
def test_no_function_is_called(
    function: Callable[..., Any], zipped: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    content = {"state_dict": OrderedDict(weight=torch.ones(2)), "args": [Call(function, "touch canary")]}
    torch.save(content, "m.pt", _use_new_zipfile_serialization=zipped)
    with pytest.raises(UnsafeFileError, match="was refused and nothing in it was run"):
        read_object(Path("m.pt"))
    assert os.listdir() == ["m.pt"]


def test_a_pickle_in_a_zip_in_a_zip_is_not_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    buffer = io.BytesIO()
    torch.save(Call(os.system, "touch canary"), buffer)
    _archive(
        Path("m.pt"), _state(_tensor((4,), (1,))), **{"data.pt": buffer.getvalue(), "x/data.pkl": b"cos\nsystem\n"}
    )
    assert list(read_object(Path("m.pt"))) == ["weight"]
    assert os.listdir() == ["m.pt"]


def test_a_whole_archive_within_another_is_refused(tmp_path: Path, runs_a_command: type) -> None:
    torch.save(runs_a_command(tmp_path / "canary"), tmp_path / "evil.pt")
    with zipfile.ZipFile(tmp_path / "m.pt", "w") as archive:
        archive.write(tmp_path / "evil.pt", "archive/evil.pt")
    with pytest.raises(FileError, match=r"is a zip archive that torch\.save did not write"):
        read_model(tmp_path / "m.pt")
    assert not (tmp_path / "canary").exists()


def _bomb(path: Path) -> None:
    _archive(path, _state(_tensor((4,), (1,))), form=zipfile.ZIP_DEFLATED, **{"data/1": bytes(10**8)})


def _twice(path: Path) -> None:
    _archive(path, _state(_tensor((4,), (1,))))
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("archive/data.pkl", b"\x80\x02cos\nsystem\n.")


def _twice_but_for_case(path: Path) -> None:
    _archive(path, _state(_tensor((4,), (1,))), **{"DATA.PKL": b"\x80\x02cos\nsystem\n."})


def _named_outside(path: Path) -> None:
    _archive(path, _state(_tensor((4,), (1,))), **{"../../x": b"x"})


def _two_lists(path: Path) -> None:
    """One archive behind another: readers differ in which they see."""
    _archive(path, _state(_tensor((4,), (1,))))
    path.write_bytes(path.read_bytes() * 2)


def _something_before(path: Path) -> None:
    _archive(path, _state(_tensor((4,), (1,))))
    path.write_bytes(b"PK" + path.read_bytes())


def _something_behind(path: Path) -> None:
    _archive(path, _state(_tensor((4,), (1,))))
    path.write_bytes(path.read_bytes() + b"behind")


def _one_record_for_all(path: Path) -> None:
    """Many names of the same bytes: small on disk, large when read."""
    _archive(path, _state(_tensor((4,), (1,))), **{f"data/{at}": bytes(5000) for at in range(1, 4)})
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        start = archive.start_dir
    at = start
    for entry in entries:
        if entry.file_size == 5000:
            content[at + 20 : at + 28] = struct.pack("<2L", 20_000, 20_000)
        at += 46 + len(entry.filename)
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("write", "sentence"),
    [
        (_bomb, "is compressed or encrypted, as torch.save never does"),
        (_twice, "it has two records of the same name"),
        (_twice_but_for_case, "it has two records of the same name"),
        (_named_outside, "its record 'archive/../../x' is named like a file outside of it"),
        (_two_lists, "its list of records is not where two readers would both look"),
        (_something_before, "its list of records is not where two readers would both look"),
        (_something_behind, ""),
        (_one_record_for_all, "its records say that they are larger than the whole file"),
    ],
)
def test_archives_that_readers_differ_about(write: Callable[[Path], None], sentence: str, tmp_path: Path) -> None:
    write(tmp_path / "m.pt")
    start = time.monotonic()
    with pytest.raises(FileError) as raised:
        read_object(tmp_path / "m.pt")
    assert sentence in str(raised.value)
    assert time.monotonic() - start < SECONDS


def _legacy(numel: int = 4, keys: bytes = b"\x80\x02]" + b"X\x01\x00\x00\x000a.") -> bytes:
    header = [pickle.dumps(value, protocol=2) for value in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})]
    held = b"(" + _text("storage") + b"ctorch\nFloatStorage\n" + _text("0") + _text("cpu") + _number(numel) + b"NtQ"
    body = _state(_tensor((4,), (1,), storage=held))
    return b"".join(header) + body + keys + struct.pack("<q", 4) + bytes(16)


def test_legacy_files_are_followed_too(tmp_path: Path) -> None:
    path = tmp_path / "m.pt"
    path.write_bytes(_legacy())
    assert read_object(path)["weight"].shape == (4,)
    path.write_bytes(_legacy(numel=10**12))
    with pytest.raises(FileError, match="lacks the numbers of its storage"):
        read_object(path)
    path.write_bytes(_legacy(keys=b"\x80\x02ctorch.nn.modules.linear\nLinear\n" + _numbers(10**6, 10**6) + b"R."))
    with pytest.raises(FileError, match=r"calls torch.nn.modules.linear.Linear"):
        read_object(path)


@pytest.mark.parametrize("arch", ["timm:vit_giant_patch14_224", "timm:test_resnet?num_classes=1000000000"])
@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_a_recipe_cannot_name_more_than_it_holds(arch: str, suffix: str, tiny: nn.Module, tmp_path: Path) -> None:
    blurify.save(blurify.antialias(tiny), tmp_path / f"m.{suffix}", arch=arch)
    start = time.monotonic()
    with pytest.raises(BlurifyError, match="it would take far more than the weights in the file"):
        load(tmp_path / f"m.{suffix}")
    assert time.monotonic() - start < SECONDS


@pytest.mark.parametrize(
    "weight", [torch.empty(10**12, device="meta"), torch.zeros(1).expand(10**6)], ids=["meta", "expanded"]
)
def test_weights_that_are_not_there_justify_nothing(weight: torch.Tensor, tmp_path: Path) -> None:
    torch.save({f"{at}.weight": weight for at in range(40)}, tmp_path / "pytorch_model.bin")
    (tmp_path / "config.json").write_text('{"architecture": "vit_giant_patch14_224"}')
    with pytest.raises(BlurifyError, match=r"far more than the weights in the file|expanded tensors"):
        read_model(tmp_path)


def test_a_limit_is_kept_before_anything_is_read(tiny: nn.Module, tmp_path: Path) -> None:
    torch.save(tiny, tmp_path / "m.pt")
    size = (tmp_path / "m.pt").stat().st_size
    assert read_model(tmp_path / "m.pt", max_size=size)
    with pytest.raises(FileError, match=f"m.pt holds {size} bytes, more than the 1000 that --max-size allows"):
        read_model(tmp_path / "m.pt", max_size=1000)


def test_an_output_that_is_a_link_is_replaced_and_what_it_leads_to_is_not(tiny: nn.Module, tmp_path: Path) -> None:
    converted = blurify.antialias(tiny)
    (tmp_path / "precious").write_bytes(b"precious")
    for name, target in (("link.pt", "precious"), ("dangling.pt", "nowhere")):
        link = tmp_path / name
        link.symlink_to(tmp_path / target)
        with pytest.raises(FileError, match="exists already"):
            blurify.save(converted, link, arch="timm:test_resnet")
        blurify.save(converted, link, arch="timm:test_resnet", force=True)
        assert not link.is_symlink()
        assert native.is_native(read_object(link))
    assert (tmp_path / "precious").read_bytes() == b"precious"
    assert not (tmp_path / "nowhere").exists()
