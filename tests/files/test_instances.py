"""What a pickle does without naming anything that is not allowed: attributes for methods, hooks, no tree."""

from __future__ import annotations

import argparse
import functools
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from timm.layers.format import Format
from torch import nn
from torchvision.models.detection._utils import Matcher

import blurify
from blurify.errors import ArchitectureError, FileError, UnsafeFileError
from blurify.files import load, read_model, save

REBUILD = "blurify.graph.module.rebuild"
CONV = "torch.nn.modules.conv.Conv2d"


def _saved(content: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    # A file is not bound to what nn.Module chooses to pickle.
    monkeypatch.setattr(nn.Module, "__getstate__", lambda self: self.__dict__.copy(), raising=False)
    torch.save(content, tmp_path / "m.pt")
    return tmp_path / "m.pt"


@pytest.mark.parametrize(
    "name",
    [
        *("forward", "_call_impl", "_wrapped_call_impl", "_compiled_call_impl", "__call__", "train", "eval", "_apply"),
        *("named_modules", "modules", "state_dict", "load_state_dict", "__getattr__", "extra_repr", "_conv_forward"),
    ],
)
@pytest.mark.parametrize(
    "value", [functools.partial(nn.Conv2d, 3), nn.Conv2d, nn.ReLU(), 5], ids=lambda value: type(value).__name__
)
def test_an_attribute_in_the_place_of_a_method(name: str, value: object, tmp_path: Path, monkeypatch: Any) -> None:
    model = nn.Sequential(OrderedDict(first=nn.Sequential(nn.Conv2d(3, 4, 3, stride=2))))
    model.first[0].__dict__[name] = value
    path = _saved({"epoch": 1, "model": model}, tmp_path, monkeypatch)
    with pytest.raises(UnsafeFileError) as refusal:
        read_model(path)
    message = str(refusal.value)
    assert message.startswith(f"{path} puts ")
    assert f" in the place of the method {CONV}.{name}, at 'model.first.0.{name}', so it was refused" in message
    assert message.endswith(f"; if you trust the file, add --allow {CONV}.{name}.")
    assert message.isprintable()
    assert read_model(path, allow=[f"{CONV}.{name}"]).form == "module"


HOOKS = sorted(name for name in vars(nn.Module()) if name.endswith("_hooks"))


@pytest.mark.parametrize("name", HOOKS)
def test_hooks(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(HOOKS) >= 8
    model = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2))
    vars(model[0])[name] = OrderedDict({0: nn.ReLU()})
    path = _saved(model, tmp_path, monkeypatch)
    with pytest.raises(UnsafeFileError, match=f"hooks a ReLU to the Conv2d at '0', .* add --allow {CONV}.{name}."):
        load(path)
    assert load(path, allow=[f"{CONV}.{name}"]) is not None
    assert load(path, allow=["torch.nn.modules.activation.ReLU"]) is not None


def _with(**attributes: Any) -> nn.Module:
    model = nn.Conv2d(3, 4, 3)
    vars(model).update(attributes)
    return model


def _inside_itself() -> nn.Module:
    outer = nn.Sequential(nn.Sequential(nn.ReLU()))
    outer[0]._modules["1"] = outer
    return outer


def _deep() -> nn.Module:
    model: nn.Module = nn.ReLU()
    for _ in range(120):
        model = nn.Sequential(model)
    return model


def _odd_attribute() -> nn.Module:
    model = nn.Conv2d(3, 4, 3)
    vars(model)[5] = 1
    return model


DAMAGED: list[tuple[str, Callable[[], object], str]] = [
    ("bare", lambda: nn.Conv2d.__new__(nn.Conv2d), "its Conv2d has a _modules that does not map names to what bel"),
    ("modules list", lambda: _with(_modules=[]), "its Conv2d has a _modules that does not map names"),
    ("modules text", lambda: _with(_modules={"a": "b"}), "its Conv2d has a _modules that does not map names"),
    ("modules number", lambda: _with(_modules={5: nn.ReLU()}), "its Conv2d has a _modules that does not map names"),
    ("parameters", lambda: _with(_parameters={"a": 5}), "its Conv2d has a _parameters that does not map names"),
    ("buffers", lambda: nn.Sequential(_with(_buffers=None)), "its Conv2d at '0' has a _buffers that does not map"),
    ("training", lambda: _with(training=2), "its Conv2d does not say whether it is training; save the model again."),
    ("hooks", lambda: _with(_forward_hooks=5), "its Conv2d has _forward_hooks that are 5; save the model again."),
    ("number", _odd_attribute, "its Conv2d has an attribute whose name is 5; save the model again."),
    ("inside itself", _inside_itself, "holds a module that is inside itself or 100 others, as in no model; save "),
    ("deep", _deep, "holds a module that is inside itself or 100 others, as in no model; save the model again."),
    ("wrapper", lambda: nn.DataParallel.__new__(nn.DataParallel), "its DataParallel has a _modules that does not map"),
]


@pytest.mark.parametrize(("make", "message"), [case[1:] for case in DAMAGED], ids=[case[0] for case in DAMAGED])
def test_what_is_no_tree_of_modules(make: Callable[[], object], message: str, tmp_path: Path, monkeypatch: Any) -> None:
    path = _saved(make(), tmp_path, monkeypatch)
    with pytest.raises(FileError) as refusal:
        read_model(path)
    assert message in str(refusal.value)
    assert str(refusal.value).isprintable()


def test_plain_objects_are_looked_at_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, matcher = nn.Sequential(nn.ReLU()), Matcher(0.7, 0.3)
    vars(matcher)["set_low_quality_matches_"] = nn.ReLU
    model.things = [{"a": (matcher,)}]
    with pytest.raises(
        UnsafeFileError, match=r"_utils.Matcher.set_low_quality_matches_, at 'things\.\[...\]\.a\.\[...\]"
    ):
        load(_saved(model, tmp_path, monkeypatch))


def test_a_dict_with_an_attribute_for_its_method(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = OrderedDict(weight=torch.ones(1))
    vars(state)["values"] = nn.ReLU
    with pytest.raises(
        UnsafeFileError, match=r"puts .*\.ReLU in the place of the method collections.OrderedDict.values"
    ):
        read_model(_saved(state, tmp_path, monkeypatch), arch="timm:test_resnet")


class _Changes:
    """Pickles as a member of an enum, then gives that the attributes of another."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Format, ("NCHW",), {"_value_": "NHWC", "x": 1}


class _Breaks:
    def __reduce__(self) -> tuple[Any, ...]:
        return Matcher, ()


def test_an_enum_stays_as_it_is(tmp_path: Path) -> None:
    torch.save({"model": _Changes()}, tmp_path / "m.pt")
    with pytest.raises(UnsafeFileError, match=r"m.pt would change .*NCHW.* for the whole program, so it was refused"):
        read_model(tmp_path / "m.pt")
    assert (Format.NCHW.value, hasattr(Format.NCHW, "x")) == ("NCHW", False)


def test_an_enum_stays_as_it_is_though_reading_fails(tmp_path: Path) -> None:
    torch.save([_Changes(), _Breaks()], tmp_path / "m.pt")
    with pytest.raises(FileError, match=r"m.pt cannot be read: .*missing 2 required positional arguments"):
        read_model(tmp_path / "m.pt")
    assert (Format.NCHW.value, hasattr(Format.NCHW, "x")) == ("NCHW", False)


def test_depth_is_no_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looped: dict[str, Any] = {"weight": torch.ones(1)}
    looped["state_dict"] = looped
    with pytest.raises(ArchitectureError, match="holds a state_dict, which is weights without an architecture"):
        read_model(_saved(looped, tmp_path, monkeypatch))


def test_a_method_of_its_own_is_no_attack(tmp_path: Path) -> None:
    # FasterNet chooses its forward when it is made; a bound method pickles by getattr, which the user has to allow.
    model = timm.create_model("fasternet_t0")
    assert any("forward" in vars(module) for module in model.modules())
    torch.save(model, tmp_path / "m.pt")
    with pytest.raises(UnsafeFileError, match=r"needs builtins.getattr, which reaches into any object"):
        read_model(tmp_path / "m.pt")
    assert read_model(tmp_path / "m.pt", allow=["builtins.getattr"]).form == "module"


def test_arguments_named_as_methods_are_no_methods(tiny: nn.Module, tmp_path: Path) -> None:
    content = {"state_dict": tiny.state_dict(), "args": argparse.Namespace(train=1, forward=2, _metadata=3)}
    torch.save(content, tmp_path / "m.pt")
    assert read_model(tmp_path / "m.pt", arch="timm:test_resnet").form == "state_dict"


def test_a_converted_model_still_loads(tiny: nn.Module, picture: torch.Tensor, tmp_path: Path) -> None:
    converted = blurify.antialias(tiny)
    save(converted, tmp_path / "m.pt")
    assert torch.equal(load(tmp_path / "m.pt", allow=[REBUILD])(picture), converted(picture))
