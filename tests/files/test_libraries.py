"""Names and folders of other libraries are built from what is on this computer, without trained weights."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import safetensors.torch
import torch

from blurify.errors import ArchitectureError
from blurify.files import build_architecture, read_model
from blurify.files.folder import architecture_in
from blurify.files.libraries import without_weights

NET = """
from torch import nn
def _net(width):
    return nn.Sequential(nn.Conv2d(3, width, 3, 2, 1), nn.ReLU(), nn.Conv2d(width, width, 3, 2, 1))
"""
SMP = """
def Unet(encoder_name="resnet34", encoder_weights="imagenet", classes=1):
    if encoder_weights is not None: raise OSError("no network")
    return _net(classes)
"""
TRANSFORMERS = """
import json
class AutoConfig:
    @classmethod
    def from_pretrained(cls, folder, *, local_files_only, trust_remote_code, **options):
        assert local_files_only and not trust_remote_code
        config = cls()
        vars(config).update(json.loads((folder / "config.json").read_text()), **options)
        return config
class Net:
    @staticmethod
    def _from_config(config): return _net(config.width)
class AutoModel:
    @staticmethod
    def from_config(config): return _net(config.width + 1)
"""
OPEN_CLIP = """
def create_model(name, *, pretrained, load_weights, pretrained_text):
    assert pretrained is None and not load_weights and not pretrained_text
    model = nn.Module()
    model.visual = _net(4 if "local-dir:" in name else 5)
    return model
"""
LIBRARIES = {"segmentation_models_pytorch": SMP, "transformers": TRANSFORMERS, "open_clip": OPEN_CLIP}


@pytest.fixture(autouse=True)
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "site").mkdir()
    for name, source in LIBRARIES.items():
        (tmp_path / "site" / f"{name}.py").write_text(NET + source)
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(tmp_path / "site")
    yield
    for name in LIBRARIES:
        sys.modules.pop(name, None)


def _folder(tmp_path: Path, width: int, config: object, name: str = "config.json", prefix: str = "") -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / name).write_text(json.dumps(config))
    state = {f"{prefix}0.weight": torch.ones(width, 3, 3, 3), f"{prefix}0.bias": torch.ones(width)}
    state |= {f"{prefix}2.weight": torch.ones(width, width, 3, 3), f"{prefix}2.bias": torch.ones(width)}
    weights = "open_clip_model.safetensors" if name.startswith("open_clip") else "model.safetensors"
    safetensors.torch.save_file(state, folder / weights)
    return folder


@pytest.mark.parametrize(("named", "width"), [(["Net"], 6), (["Gone"], 7), (None, 7)])
def test_a_folder_of_transformers(named: list[str] | None, width: int, tmp_path: Path) -> None:
    folder = _folder(tmp_path, width, {"model_type": "net", "architectures": named, "width": 6}, prefix="net.")
    loaded = read_model(folder)
    assert loaded.arch == f"hf:{folder}"
    assert loaded.model[0].weight.eq(1).all()


def test_a_folder_of_smp(tmp_path: Path) -> None:
    config = {"_model_class": "Unet", "classes": 2, "encoder_name": "resnet18", "encoder_weights": "imagenet"}
    loaded = read_model(_folder(tmp_path, 2, config))
    assert loaded.arch == "smp:Unet?classes=2&encoder_name=resnet18"
    assert loaded.model[2].weight.shape[0] == 2


def test_a_folder_of_open_clip(tmp_path: Path) -> None:
    folder = _folder(tmp_path, 4, {"model_cfg": {}}, "open_clip_config.json", prefix="visual.")
    assert read_model(folder).model[0].weight.eq(1).all()


@pytest.mark.parametrize(
    ("config", "arch"),
    [
        ({"architecture": "resnet18"}, "timm:resnet18"),
        ({"model_type": "vit"}, "hf:"),
        ({"hidden": 3}, None),
    ],
)
def test_what_a_configuration_names(config: object, arch: str | None, tmp_path: Path) -> None:
    named = architecture_in(_folder(tmp_path, 2, config))
    assert named == (f"hf:{tmp_path / 'model'}" if arch == "hf:" else arch)


def test_names(tmp_path: Path) -> None:
    assert build_architecture("smp:Unet?classes=3")[0].out_channels == 3
    assert build_architecture("segmentation_models_pytorch:Unet?classes=3")[0].out_channels == 3
    assert build_architecture("open_clip:RN50")[0].out_channels == 5


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("smp:Net", "segmentation_models_pytorch has no architecture 'Net'; write smp:Unet"),
        ("monai:UNet", "'monai:UNet' needs monai, which cannot be imported; run: pip install monai"),
        ("hf:nowhere", "There is no folder nowhere with a config.json"),
        ("smp:Unet?encoder_weights=imagenet", "'encoder_weights' in .* is about weights"),
    ],
)
def test_refusals(name: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "monai", None)
    with pytest.raises(ArchitectureError, match=message):
        build_architecture(name)


def test_defaults_that_ask_for_no_weights_are_left() -> None:
    def factory(pretrained: bool = False, weights: str | None = "best", encoder_weights: str = "") -> None: ...

    assert without_weights(factory, {"a": 1}) == {"a": 1, "weights": None}
