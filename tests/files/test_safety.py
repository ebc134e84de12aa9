"""What a pickle may name: every ordinary model loads, nothing else runs."""

from __future__ import annotations

import argparse
import pickle
import sys
from enum import Enum
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from torch import nn

from blurify.errors import FileError, UnsafeFileError
from blurify.files import read_model
from blurify.files.untrusted.container import read_object
from blurify.files.untrusted.safety import PLAIN, refusal, resolve_globals
from tests.conftest import tiered

# One small network per family; together they name every entry of the curated list but RAFT's.
TIMM = [
    *("test_byobnet", "test_convnext", "test_efficientnet", "test_efficientnet_ln", "test_mambaout", "test_nfnet"),
    *("test_resnet", "test_vit", "densenet121", "mobilenetv3_small_050", "ghostnet_050", "regnetx_002", "repvgg_a0"),
    *("tf_efficientnet_b0", "mobilenetv4_conv_small_035", "resnetblur18", "hardcorenas_a", "lcnet_035", "tinynet_e"),
    *(
        "dla46_c",
        "selecsls42b",
        "res2net50_14w_8s",
        "skresnet18",
        "xcit_nano_12_p16_224",
        "levit_128s",
        "edgenext_xx_small",
    ),
    *("mobileone_s0", "fastvit_t8", "efficientformer_l1", "starnet_s050", "shvit_s1", "poolformer_s12", "nfnet_l0"),
]
TORCHVISION = [
    *("alexnet", "densenet121", "efficientnet_b0", "googlenet", "mnasnet0_5", "mobilenet_v2", "mobilenet_v3_small"),
    *("regnet_x_400mf", "resnet18", "shufflenet_v2_x0_5", "squeezenet1_1", "vgg11_bn", "convnext_tiny", "swin_t"),
    *("vit_b_32", "maxvit_t", "inception_v3", "lraspp_mobilenet_v3_large", "fasterrcnn_mobilenet_v3_large_fpn"),
    *("ssdlite320_mobilenet_v3_large", "fcos_resnet50_fpn", "raft_small", "mc3_18", "deeplabv3_mobilenet_v3_large"),
]


def _build(name: str) -> nn.Module:
    """Build without drawing the weights, which would be most of the time."""
    library, _, name = name.partition(":")
    if library == "timm":
        return timm.create_model(name)
    options = {"weights": None}
    if any(mark in name for mark in ("rcnn", "ssd", "fcos", "raspp", "deeplab")):
        options["weights_backbone"] = None
    if name in ("googlenet", "inception_v3"):
        options["init_weights"] = False
    return torchvision.models.get_model(name, **options)


REAL = [*(f"timm:{n}" for n in TIMM), *(f"torchvision:{n}" for n in TORCHVISION)]
# Those whose pickles name most: detectors, transformers, gates, blurs, norm-free and quantizable blocks.
EVERYDAY = [
    *(
        f"timm:{n}"
        for n in ("test_byobnet", "test_efficientnet", "test_nfnet", "test_vit", "resnetblur18", "levit_128s")
    ),
    *("torchvision:googlenet", "torchvision:fasterrcnn_mobilenet_v3_large_fpn", "torchvision:swin_t"),
    *("torchvision:resnet18", "torchvision:mobilenet_v3_small", "torchvision:mc3_18"),
]


@pytest.mark.parametrize("name", tiered(REAL, *EVERYDAY))
def test_a_real_model_loads_from_its_pickle(name: str, tmp_path: Path) -> None:
    with (
        torch.device("meta")
        if not name.startswith("torchvision:swin") and "regnet" not in name
        else torch.device("cpu")
    ):
        model = _build(name)
    for module in model.modules():  # the names are the subject here, not the weights
        for registry in (module._parameters, module._buffers):
            registry.update({key: None if value is None else _nothing(value) for key, value in registry.items()})
    torch.save(model, tmp_path / "model.pt")
    values = (value for module in model.modules() for value in vars(module).values())
    if (3, 11) <= sys.version_info < (3, 11, 4) and any(isinstance(value, Enum) for value in values):
        pytest.skip("this Python pickles enums by builtins.getattr, which is refused")
    loaded = read_model(tmp_path / "model.pt")
    assert loaded.form == "module"
    assert repr(loaded.model) == repr(model)


def _nothing(value: torch.Tensor) -> torch.Tensor:
    return nn.Parameter(torch.empty(0)) if isinstance(value, nn.Parameter) else torch.empty(0)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_weights_survive(tiny: nn.Module, picture: torch.Tensor, tmp_path: Path, zipped: bool) -> None:
    torch.save(tiny, tmp_path / "model.pt", _use_new_zipfile_serialization=zipped)
    loaded = read_model(tmp_path / "model.pt").model
    assert torch.equal(loaded(picture), tiny(picture))


def test_a_legacy_file_in_which_text_is_shared_with_a_class_source(tmp_path: Path) -> None:
    # Both say "module": the memo slot of the text that is dropped is used again.
    model = nn.DataParallel(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)))
    torch.save(model, tmp_path / "model.pt", _use_new_zipfile_serialization=False)
    loaded = read_model(tmp_path / "model.pt").model
    assert type(loaded) is nn.Sequential
    assert torch.equal(loaded[0].weight, model.module[0].weight)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("allow", [(), ("posix.system", "os.system", "nt.system")], ids=["", "allowed"])
def test_a_file_that_would_run_a_command_runs_nothing(
    tmp_path: Path, runs_a_command: type, zipped: bool, allow: tuple[str, ...]
) -> None:
    canary = tmp_path / "canary"
    content = {"state_dict": {"weight": torch.zeros(2)}, "epoch": runs_a_command(canary)}
    torch.save(content, tmp_path / "evil.pt", _use_new_zipfile_serialization=zipped)
    with pytest.raises(UnsafeFileError, match=r"evil.pt asks to run \w+.system; it was refused .* --allow \w+.system"):
        read_model(tmp_path / "evil.pt", allow=allow)
    assert not canary.exists()


def test_the_canary_would_have_been_written(tmp_path: Path, runs_a_command: type) -> None:
    torch.save(runs_a_command(tmp_path / "canary"), tmp_path / "evil.pt")
    torch.load(tmp_path / "evil.pt", weights_only=False)
    assert (tmp_path / "canary").exists()


class Stranger(nn.Module):
    """A module that no library defines."""


def test_a_stranger_is_refused_with_the_flag_that_allows_it(tmp_path: Path) -> None:
    torch.save(Stranger(), tmp_path / "model.pt")
    name = f"{Stranger.__module__}.Stranger"
    with pytest.raises(UnsafeFileError) as refusal:
        read_model(tmp_path / "model.pt")
    assert str(refusal.value) == (
        f"{tmp_path / 'model.pt'} needs {name}, not among the model classes of torch, torchvision, timm and blurify, "
        f"so it was refused and nothing in it was run; if you trust the file, add --allow {name}."
    )
    assert type(read_model(tmp_path / "model.pt", allow=[name]).model) is Stranger


def test_an_allowed_name_that_cannot_be_imported_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save(Stranger(), tmp_path / "model.pt")
    monkeypatch.delitem(sys.modules, Stranger.__module__)
    monkeypatch.setattr(sys, "path", [])
    with pytest.raises(FileError, match="which you allowed but which cannot be imported here"):
        read_model(tmp_path / "model.pt", allow=[f"{Stranger.__module__}.Stranger"])


def refused(names: list[str]) -> None:
    """Refuse a model that is made of these names: they are not loaded, or the file is refused at once."""
    raise refusal(Path("model.pt"), resolve_globals(Path("model.pt"), names).unknown)


@pytest.mark.parametrize(
    "name",
    [
        *("builtins.eval", "builtins.getattr", "builtins.exec", "subprocess.Popen", "torch.load", "torch.hub.load"),
        *("torch.fx.graph_module.GraphModule", "torch.fx.graph_module.reduce_graph_module"),
        *("torch.jit._script.ScriptModule", "torchvision.models.feature_extraction.DualGraphModule"),
        *("torch.nn.parallel.distributed.DistributedDataParallel", "torchvision.models._api.get_model"),
        *("timm.models._factory.create_model", "timm.models._helpers.load_checkpoint", "timm.layers.not_there.Thing"),
        *("torch.nn.modules.module.Module.load_state_dict", "blurify.graph.module.rebuild", "timm.models.timm"),
        *("torch.nn.modules.module.torch.load", "blurify.graph.module.TracedModule"),
        *("timm.models._features_fx.GraphExtractNet", "timm.models._features_fx.FeatureGraphNet"),
    ],
)
def test_refused_names(name: str) -> None:
    with pytest.raises(UnsafeFileError, match=f"needs {name},.* add --allow {name}."):
        refused([name])


def test_a_name_cannot_write_to_the_terminal() -> None:
    with pytest.raises(UnsafeFileError) as refusal:
        resolve_globals(Path("model.pt"), ["torch.nn.Linear", "a.\x1b[2Jb" + "c" * 10**6])
    assert str(refusal.value).startswith(r"model.pt names 'a.\x1b[2Jbccc")
    assert str(refusal.value).endswith(", which no class is called, so nothing in it was run.")
    assert len(str(refusal.value)) < 200


@pytest.mark.parametrize("name", sorted(PLAIN))
def test_every_curated_name_exists(name: str) -> None:
    ((value, same_name),) = resolve_globals(Path("model.pt"), [name]).pairs
    assert same_name == name
    assert callable(value)


def test_a_class_that_the_installed_library_lacks_is_told_apart() -> None:
    with pytest.raises(UnsafeFileError, match=r"which the timm [\d.]+\w* installed here does not have"):
        refused(["timm.models.resnet.ResNet2031"])


def test_a_training_checkpoint_with_its_arguments_loads(tiny: nn.Module, tmp_path: Path) -> None:
    content = {"epoch": 3, "state_dict": tiny.state_dict(), "args": argparse.Namespace(lr=0.1)}
    torch.save(content, tmp_path / "last.pth.tar")
    assert read_model(tmp_path / "last.pth.tar", arch="timm:test_resnet").form == "state_dict"


def test_what_torch_may_load_is_left_as_found(tiny: nn.Module, tmp_path: Path) -> None:
    torch.save(tiny, tmp_path / "model.pt")
    before = torch.serialization.get_safe_globals()
    own = (nn.Conv2d, "torch.nn.modules.conv.Conv2d")
    torch.serialization.add_safe_globals([own])
    try:
        read_object(tmp_path / "model.pt")
        assert set(torch.serialization.get_safe_globals()) == {*before, own}
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(before)


def test_a_plain_pickle_is_not_opened(tmp_path: Path, runs_a_command: type) -> None:
    (tmp_path / "model.pkl").write_bytes(pickle.dumps(runs_a_command(tmp_path / "canary")))
    with pytest.raises(UnsafeFileError, match=r"asks to run \w+\.system; it was refused and nothing in it was run"):
        read_model(tmp_path / "model.pkl")
    assert not (tmp_path / "canary").exists()


def test_another_pickle_protocol_is_not_guessed_at(tmp_path: Path, runs_a_command: type) -> None:
    torch.save(runs_a_command(tmp_path / "canary"), tmp_path / "model.pt", pickle_protocol=4)
    with pytest.raises(FileError, match="holds a pickle that cannot be checked for safety"):
        read_model(tmp_path / "model.pt")
    assert not (tmp_path / "canary").exists()
