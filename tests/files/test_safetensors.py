"""safetensors: read alone, in shards and in folders; written with the recipe, and read back."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors
import safetensors.torch
import timm
import torch
from torch import Tensor, nn

import blurify
from blurify.errors import BlurifyError, FileError
from blurify.files import read_model

ARCH = "timm:test_resnet"


class Tied(nn.Module):
    """Two names of one weight, which safetensors does not store."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(4, 4, 3, stride=2)
        self.second = nn.Conv2d(4, 4, 3, stride=2)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.relu(self.first(x)))


def _shards(folder: Path, state: dict[str, Tensor], suffix: str) -> Path:
    """Write two shards and their index; `bin` ones are torch's."""
    names = list(state)
    stem = "model" if suffix == "safetensors" else "pytorch_model"
    places = {}
    for number, part in enumerate((names[::2], names[1::2]), 1):
        file = f"{stem}-0000{number}-of-00002.{suffix}"
        held = {name: state[name] for name in part}
        safetensors.torch.save_file(held, folder / file) if stem == "model" else torch.save(held, folder / file)
        places |= dict.fromkeys(part, file)
    index = folder / f"{stem}.{suffix}.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": places}))
    return index


def test_content_and_not_the_name_tells(tiny: nn.Module, picture: Tensor, tmp_path: Path) -> None:
    safetensors.torch.save_file(tiny.state_dict(), tmp_path / "weights.pt")
    loaded = read_model(tmp_path / "weights.pt", arch=ARCH)
    assert loaded.form == "state_dict"
    assert torch.equal(loaded.model(picture), tiny(picture))


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_shards_are_put_together(suffix: str, tiny: nn.Module, picture: Tensor, tmp_path: Path) -> None:
    index = _shards(tmp_path, tiny.state_dict(), suffix)
    assert torch.equal(read_model(index, arch=ARCH).model(picture), tiny(picture))
    assert torch.equal(read_model(tmp_path, arch=ARCH).model(picture), tiny(picture))


def test_shards_as_the_cache_of_the_hub_links_them(tiny: nn.Module, picture: Tensor, tmp_path: Path) -> None:
    (tmp_path / "blobs").mkdir()
    folder = tmp_path / "snapshots" / "abc"
    folder.mkdir(parents=True)
    _shards(folder, tiny.state_dict(), "safetensors")
    for number, path in enumerate(list(folder.iterdir())):
        path.rename(tmp_path / "blobs" / str(number))
        path.symlink_to(Path("..") / ".." / "blobs" / str(number))
    assert torch.equal(read_model(folder, arch=ARCH).model(picture), tiny(picture))


@pytest.mark.parametrize("safe", [True, False], ids=["safetensors", "bin"])
@pytest.mark.parametrize("prefix", ["", "local-dir:"])
def test_a_folder_of_timm_s_needs_no_arch(
    safe: bool, prefix: str, picture: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = timm.create_model("test_resnet", num_classes=7, in_chans=1, drop_rate=0.25).eval()
    timm.models.save_for_hf(model, tmp_path / "m", safe_serialization=safe)
    monkeypatch.chdir(tmp_path)
    loaded = read_model(f"{prefix}m")
    assert loaded.form == "state_dict"
    assert loaded.arch is not None
    assert loaded.arch.startswith("timm:test_resnet?num_classes=7&in_chans=1")
    assert torch.equal(loaded.model(picture[:, :1]), model(picture[:, :1]))


def test_the_user_s_architecture_goes_before_the_folder_s(tiny: nn.Module, tmp_path: Path) -> None:
    safetensors.torch.save_file(tiny.state_dict(), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text('{"architecture": "resnet18"}')
    assert read_model(tmp_path, arch=ARCH).arch == ARCH


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ("{", "config.json cannot be read: "),
        ("[]", "config.json holds no JSON object; name the architecture with --arch"),
        ("[" * 10**5, "config.json cannot be read: "),
        ('{"architecture": 5}', "config.json names the architecture 5, which is no name; "),
        ('{"architecture": "os:system"}', "config.json names the architecture 'os:system', which is no name; "),
        ('{"architecture": "a?b"}', "which is no name; "),
        ('{"architecture": "resnet18", "model_args": {"a": "b&c"}}', "config.json gives 'a' a value that an "),
        ('{"architecture": "resnet18", "model_args": {"a": {}}}', "config.json gives 'a' a value that an "),
        ('{"architecture": "resnet18", "model_args": {"pretrained": true}}', "is about weights"),
        ('{"architecture": "resnet18", "num_classes": 1000000000000}', "far more than the weights in the file"),
        ('{"architecture": "vit_giant_patch14_224"}', "far more than the weights in the file"),
        ('{"architecture": "vit_tiny_patch16_224", "model_args": {"depth": 100000000}}', "far more than the weights"),
        ('{"hidden_sizes": 3}', "weights without an architecture; these are the weights of timm:test_resnet"),
    ],
)
def test_what_a_config_cannot_do(config: str, sentence: str, tiny: nn.Module, tmp_path: Path) -> None:
    safetensors.torch.save_file(tiny.state_dict(), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(BlurifyError) as raised:
        read_model(tmp_path)
    assert sentence in str(raised.value)


def _outside(folder: Path) -> str:
    (folder / "link.bin").symlink_to(folder.parent / "outside.bin")
    return "link.bin"


@pytest.mark.parametrize(
    ("place", "sentence"),
    [
        (lambda folder: "../outside.bin", "which is not a file next to it"),
        (lambda folder: str(folder.parent / "outside.bin"), "which is not a file next to it"),
        (lambda folder: "..\\outside.bin", "which is not a file next to it"),
        (lambda folder: "..", "which is not a file next to it"),
        (lambda folder: "", "which is not a file next to it"),
        (lambda folder: "a\0b", "which is not a file next to it"),
        (_outside, "a link to another folder"),
        (lambda folder: "gone.bin", "which is not next to it; copy all shards"),
        (lambda folder: "model.json", "is an index again"),
        (lambda folder: (folder / "sub").mkdir() or "sub", "which is no file"),
        (lambda folder: torch.save([1], folder / "list.bin") or "list.bin", "is no part of a state_dict"),
    ],
)
def test_an_index_leads_nowhere_else(
    place: Callable[[Path], Any], sentence: str, tiny: nn.Module, tmp_path: Path
) -> None:
    folder = tmp_path / "m"
    folder.mkdir()
    torch.save(tiny.state_dict(), tmp_path / "outside.bin")
    index = folder / "model.json"
    index.write_text(json.dumps({"weight_map": dict.fromkeys(tiny.state_dict(), place(folder))}))
    with pytest.raises(FileError) as raised:
        read_model(index, arch=ARCH)
    assert sentence in str(raised.value)


def test_an_index_and_its_shards_agree(tiny: nn.Module, tmp_path: Path) -> None:
    index = _shards(tmp_path, tiny.state_dict(), "safetensors")
    content = json.loads(index.read_text())
    del content["weight_map"]["fc.bias"]
    index.write_text(json.dumps(content))
    with pytest.raises(FileError, match=r"do not agree about 'fc\.bias'"):
        read_model(index, arch=ARCH)


def test_a_limit_holds_for_shards_in_all(tiny: nn.Module, tmp_path: Path) -> None:
    index = _shards(tmp_path, tiny.state_dict(), "safetensors")
    total = sum(path.stat().st_size for path in tmp_path.glob("*.safetensors"))
    assert read_model(index, arch=ARCH, max_size=total)
    with pytest.raises(FileError, match=f"holds {total} bytes, more than the {total - 1} that --max-size allows"):
        read_model(index, arch=ARCH, max_size=total - 1)


def _header(text: bytes, data: bytes = bytes(8)) -> bytes:
    return struct.pack("<Q", len(text)) + text + data


@pytest.mark.parametrize(
    "content",
    [
        struct.pack("<Q", 2**39) + b"{}",
        _header(b"{" * 10**5),
        _header(b'{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,8]}}'),
        _header(b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[8,16]}}'),
        _header(b'{"a":{"dtype":"F32","shape":[4611686018427387904],"data_offsets":[0,8]}}'),
        _header(b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'),
        _header(b'{"a":{"dtype":"X","shape":[2],"data_offsets":[0,8]}}'),
    ],
)
def test_a_header_that_lies(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "w").write_bytes(content)
    with pytest.raises(FileError, match="is a damaged safetensors file: "):
        read_model(tmp_path / "w", arch=ARCH)


def test_a_converted_model_is_written_with_its_recipe(tiny: nn.Module, picture: Tensor, tmp_path: Path) -> None:
    converted = blurify.antialias(tiny)
    blurify.save(converted, tmp_path / "m.safetensors", arch=ARCH)
    with safetensors.safe_open(tmp_path / "m.safetensors", "pt") as file:
        assert sorted(file.keys()) == sorted(tiny.state_dict())
        assert json.loads(file.metadata()["blurify"])["recipe"]["arch"] == ARCH
    for model in (blurify.load(tmp_path / "m.safetensors"), read_model(tmp_path / "m.safetensors").model):
        assert torch.equal(model(picture), converted(picture))


def test_tied_weights_are_tied_again(tmp_path: Path) -> None:
    converted = blurify.antialias(Tied().eval(), stem=True)
    arch = f"{Tied.__module__}:Tied"
    blurify.save(converted, tmp_path / "m.safetensors", arch=arch)
    loaded = blurify.load(tmp_path / "m.safetensors", arch=arch)
    assert len(loaded.state_dict()) == len(converted.state_dict()) == 4
    assert sum(1 for _ in loaded.parameters()) == 3
    x = torch.randn(1, 4, 32, 32)
    assert torch.equal(loaded(x), converted(x))


def test_a_module_without_an_architecture_is_refused(tiny: nn.Module, tmp_path: Path) -> None:
    with pytest.raises(FileError, match="would hold weights without the network that they are of; "):
        blurify.save(blurify.antialias(tiny), tmp_path / "m.safetensors")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("recipe", ["", "[]", "{}", '{"format": "other"}', "[" * 10**5])
def test_a_recipe_that_is_none(recipe: str, tiny: nn.Module, tmp_path: Path) -> None:
    safetensors.torch.save_file(tiny.state_dict(), tmp_path / "m", {"blurify": recipe})
    with pytest.raises(FileError, match="has a recipe that is "):
        read_model(tmp_path / "m")
