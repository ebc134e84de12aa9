"""Our own format, and the pickles of converted models: written, read back, refused."""

from __future__ import annotations

import re
import shutil
import sys
import threading
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import nn

import blurify
from blurify.errors import ArchitectureError, ArgumentError, FileError, PlanError, UnsafeFileError
from blurify.files import load, read_model, save
from blurify.tracing.inputs import input_size

ARCH = "timm:test_resnet"


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file that is made once and only read."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("written") / "model.blur3.pt"
    save(blurify.antialias(timm.create_model("test_resnet").eval(), 3), path, arch=ARCH)
    return path


@pytest.fixture
def saved(written: Path, tmp_path: Path) -> Path:
    """A copy of it that may be edited."""
    return Path(shutil.copy(written, tmp_path))


def _edit(path: Path, **changes: Any) -> None:
    content = torch.load(path, weights_only=True)
    for key, value in changes.items():
        (content["recipe"] if key in (*content["recipe"], "input_shapes") else content)[key] = value
    torch.save(content, path)


def _with_attribute(**attributes: Any) -> OrderedDict[str, torch.Tensor]:
    state = OrderedDict(a=torch.ones(1))
    state.__dict__.update(attributes)
    return state


def test_a_file_rebuilds_the_model(tiny: nn.Module, picture: torch.Tensor, saved: Path) -> None:
    converted = blurify.antialias(tiny, 3)
    rebuilt = load(saved)
    assert torch.equal(rebuilt(picture), converted(picture))
    assert list(rebuilt.state_dict()) == list(tiny.state_dict())
    assert rebuilt.meta["blurify"] == converted.meta["blurify"]
    assert not any(module.training for module in rebuilt.modules())


def test_a_file_is_plain_data(tiny: nn.Module, saved: Path) -> None:
    content = torch.load(saved, weights_only=True)
    assert (content["format"], content["version"]) == ("blurify", 2)
    assert content["recipe"]["arch"] == ARCH
    assert content["recipe"]["versions"]["blurify"] == blurify.__version__
    assert set(content["recipe"]["versions"]) == {"blurify", "torch", "torchvision", "timm", "python"}
    assert content["state_dict"].keys() == tiny.state_dict().keys()
    tiny.load_state_dict(content["state_dict"], strict=True)


def test_reading_it_as_a_model_gives_the_converted_one(saved: Path) -> None:
    loaded = read_model(saved)
    assert (loaded.form, loaded.arch) == ("native", ARCH)
    with pytest.warns(blurify.NoEffectWarning, match="already antialiased"):
        blurify.antialias(loaded.model)


def test_the_size_of_the_input_is_known_again(saved: Path) -> None:
    assert input_size(load(saved)) == (3, 160, 160)


def test_precision_is_kept(tiny: nn.Module, tmp_path: Path) -> None:
    save(blurify.antialias(tiny.double()), tmp_path / "m.pt", arch=ARCH)
    assert {value.dtype for value in load(tmp_path / "m.pt").parameters()} == {torch.float64}


def test_random_numbers_and_safe_globals_are_left_as_found(saved: Path) -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state(), torch.serialization.get_safe_globals()
    load(saved)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert torch.serialization.get_safe_globals() == before[1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": 3}, "is in version 3 of blurify's format, and this blurify reads up to 2; upgrade blurify."),
        ({"version": 10**40}, r"is in version 10+ of blurify's format, .*; upgrade blurify"),
        ({"version": "new"}, "but its version is 'new', not 1 to 2; convert the model again."),
        ({"version": True}, "but its version is True, not 1 to 2;"),
        ({"version": 1.0}, "but its version is 1.0, not 1 to 2;"),
        ({"version": -1}, "but its version is -1, not 1 to 2;"),
        ({"version": 0}, "but its version is 0, not 1 to 2;"),
        ({"version": None}, "but its version is None, not 1 to 2;"),
        ({"version": torch.ones(2)}, "but its version is a Tensor, not 1 to 2;"),
        ({"extra": 1}, "but it has the unknown field 'extra'; convert the model again."),
        ({"": 1}, "but it has the unknown field '';"),
        ({"recipe": None}, "is in blurify's format but lacks its recipe or its weights; convert the model again."),
        ({"recipe": []}, "is in blurify's format but lacks its recipe or its weights"),
        ({"recipe": {}}, "but its plan is None, not text;"),
        ({"recipe": {"plan": "{}", "arch": ARCH}}, "but its versions are None, not a dict;"),
        ({"recipe": {"plan": "{}", "arch": ARCH, "code": "x"}}, "but its recipe has the unknown field 'code';"),
        ({"recipe": {"plan": "{}", "arch": ARCH, 5: "x"}}, "but its recipe has the unknown field 5;"),
        ({"state_dict": []}, "is in blurify's format but lacks its recipe or its weights"),
        ({"state_dict": {5: 1}}, "but its weights have the name 5, which is no text;"),
        ({"state_dict": {"a": 1}}, "but its weight 'a' is 1, not a tensor;"),
        ({"state_dict": {"a": {"b": torch.ones(1)}}}, "but its weight 'a' is a dict, not a tensor;"),
        ({"state_dict": {"a": torch.eye(3).to_sparse()}}, "but its weight 'a' is no plain tensor of numbers;"),
        ({"state_dict": {"a": torch.empty(3, device="meta")}}, "but its weight 'a' is no plain tensor of numbers;"),
        ({"state_dict": _with_attribute(_metadata=5)}, "but the metadata of its weights is 5, not a dict;"),
        ({"state_dict": _with_attribute(_metadata={"": {"version": "2"}})}, "but the metadata of its weights says a"),
        ({"state_dict": _with_attribute(_metadata={"": 5})}, "but the metadata of its weights says 5 of '';"),
        ({"arch": 5}, "but its arch is 5, not text; convert the model again."),
        ({"arch": "timm:\x1b[2J"}, r"but its arch is 'timm:\\x1b\[2J', not a printable name of at most 1000 charac"),
        ({"arch": "timm:" + "x" * 1000}, "but its arch is 'timm:xxx"),
        ({"plan": 5}, "but its plan is 5, not text;"),
        ({"versions": "1"}, "but its versions are '1', not a dict;"),
        ({"versions": {"timm": 1}}, "but its version of 'timm' is 1, not text;"),
        ({"versions": {1: "1"}}, "but a package of its versions is 1, not text;"),
        ({"input_shapes": 5}, "but its input_shapes are 5, not a list of lists of sizes;"),
        ({"input_shapes": [5]}, "but its input_shapes are a list, not a list of lists of sizes;"),
        ({"input_shapes": [[1, 3, "8", 8]]}, "but its input_shapes hold what is no size;"),
        ({"input_shapes": [[1, 3, -8, 8]]}, "but its input_shapes hold what is no size;"),
        ({"input_shapes": [[10**6, 10**6]]}, "but its input_shapes are of more than 67108864 elements;"),
        ({"plan": "{}"}, "cannot be rebuilt: .*; convert the model again."),
        ({"plan": "not json", "versions": {"timm": "0.4"}}, r"written with other versions \(timm 0.4 then, .* now\)."),
    ],
)
def test_a_file_that_is_not_as_we_wrote_it(saved: Path, changes: dict[str, Any], message: str) -> None:
    _edit(saved, **changes)
    with pytest.raises(FileError, match=message) as refusal:
        load(saved)
    assert str(refusal.value).isprintable()


@pytest.mark.parametrize(
    ("arch", "message"),
    [
        *(("", "'' is not an architecture; "), ("timm", "'timm' is not an architecture; ")),
        *(("timm:", "'timm:' is not an architecture; "), (":resnet18", "':resnet18' is not an architecture; ")),
        *((f"{ARCH}?a", "'a' in 'timm:test_resnet?a' is not "), (f"{ARCH}?a={{[]:1}}", "unexpected keyword")),
        *(
            (f"{ARCH}?in_chans={'-' * 900}1", "cannot be built: "),
            (f"{ARCH}?in_chans={'(' * 900}", "cannot be built: "),
        ),
        *(
            ("timm:../resnet18", "timm has no architecture '../resnet18'; "),
            ("timm:größe", "timm has no architecture "),
        ),
    ],
)
def test_an_arch_that_makes_no_sense(saved: Path, arch: str, message: str) -> None:
    _edit(saved, arch=arch)
    with pytest.raises(ArchitectureError, match=re.escape(message)):
        load(saved)


def test_weights_with_attributes_in_the_place_of_methods(tiny: nn.Module, saved: Path) -> None:
    state = OrderedDict(tiny.state_dict())
    state.__dict__.update(keys=5, _metadata={"": {"version": 1}})
    _edit(saved, state_dict=state)
    with pytest.raises(UnsafeFileError, match=r"puts 5 in the place of the method collections.OrderedDict.keys, at 's"):
        load(saved)
    assert torch.equal(load(saved, allow=["collections.OrderedDict.keys"]).fc.bias, tiny.fc.bias)


def test_extra_state_may_be_anything(saved: Path) -> None:
    state = torch.load(saved, weights_only=True)["state_dict"]
    _edit(saved, state_dict={**state, "conv1._extra_state": ["anything"]})
    with pytest.raises(ArchitectureError, match=r"1 unexpected \(conv1._extra_state\)"):
        load(saved)


def test_a_plan_for_another_architecture(saved: Path) -> None:
    _edit(saved, arch="timm:test_convnext")
    with pytest.raises(FileError, match="cannot be rebuilt: ") as raised:
        load(saved)
    assert isinstance(raised.value.__cause__, PlanError)


def test_another_arch_than_the_file_names(saved: Path) -> None:
    with pytest.raises(ArchitectureError, match="was made from timm:test_resnet, not from timm:resnet18; leave --arch"):
        load(saved, arch="timm:resnet18")
    assert load(saved, arch=ARCH) is not None


def test_a_file_cannot_have_a_module_imported_unless_the_user_says_so(saved: Path, monkeypatch: Any) -> None:
    module = saved.parent / "blurify_test_intruder.py"
    module.write_text("from timm.models import test_resnet as build\nopen(__file__ + '.ran', 'w').close()\n")
    monkeypatch.syspath_prepend(str(saved.parent))
    named = "blurify_test_intruder:build"
    _edit(saved, arch=named)
    with pytest.raises(UnsafeFileError, match=f"asks to import {named}, .* add --allow {named}."):
        load(saved)
    assert not Path(f"{module}.ran").exists()
    load(saved, allow=[named])
    assert Path(f"{module}.ran").exists()
    load(saved, arch=named)
    monkeypatch.delitem(sys.modules, "blurify_test_intruder")


def test_a_file_cannot_have_weights_fetched(saved: Path) -> None:
    _edit(saved, arch=f"{ARCH}?checkpoint_path=evil.pt")
    with pytest.raises(ArchitectureError, match=r"'checkpoint_path' in .* is about weights"):
        load(saved)


def test_weights_that_do_not_fit_the_recipe(saved: Path) -> None:
    _edit(saved, state_dict={"fc.bias": torch.zeros(3)})
    with pytest.raises(ArchitectureError, match=r"does not fit timm:test_resnet: \d+ missing \(conv1.0.weight, "):
        load(saved)


@pytest.mark.parametrize("form", ["class", "graph"])
def test_a_model_without_a_name_is_pickled_and_read_without_a_word(
    form: str, tiny: nn.Module, picture: torch.Tensor, tmp_path: Path
) -> None:
    converted = blurify.antialias(tiny, form=form)
    save(converted, tmp_path / "m.pt")
    rebuilt = load(tmp_path / "m.pt")
    assert rebuilt.meta["blurify_form"] == form
    assert torch.equal(rebuilt(picture), converted(picture))
    torch.save({"epoch": 3, "model": converted}, tmp_path / "checkpoint.pt")
    assert torch.equal(read_model(tmp_path / "checkpoint.pt").model(picture), converted(picture))


def test_a_graph_that_was_edited_needs_the_users_word(tiny: nn.Module, picture: torch.Tensor, tmp_path: Path) -> None:
    converted = blurify.antialias(tiny, form="graph")
    converted.fc = nn.Linear(converted.fc.in_features, 3)
    save(converted, tmp_path / "m.pt")
    with pytest.raises(UnsafeFileError) as raised:
        load(tmp_path / "m.pt")
    assert str(raised.value) == (
        f"{tmp_path / 'm.pt'} needs blurify.graph.module.rebuild, a converted model's graph, which can call any "
        "function that the file names, so it was refused and nothing in it was run; "
        "if you trust the file, add --allow blurify.graph.module.rebuild."
    )
    rebuilt = load(tmp_path / "m.pt", allow=["blurify.graph.module.rebuild"])
    assert torch.equal(rebuilt(picture), converted(picture))


def test_saving_refuses_what_it_cannot_do_well(tiny: nn.Module, tmp_path: Path) -> None:
    converted = blurify.antialias(tiny)
    (tmp_path / "old.pt").write_bytes(b"old")
    with pytest.raises(FileError, match="exists already"):
        save(converted, tmp_path / "old.pt")
    with pytest.raises(ArgumentError, match=r"Only a model that .* can be saved with arch, and this ResNet has no"):
        save(tiny, tmp_path / "new.pt", arch=ARCH)
    converted.lock = threading.Lock()
    converted.conv1.lock = threading.Lock()
    with pytest.raises(FileError, match=r"cannot be pickled to .*lock.*name its architecture with arch"):
        save(converted, tmp_path / "new.pt")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("old.pt", b"old")]
    save(converted, tmp_path / "old.pt", arch=ARCH, force=True)
    assert load(tmp_path / "old.pt") is not None
