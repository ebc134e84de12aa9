"""Architectures by name: built with what is asked, refused with the nearest names."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from torch import nn

from blurify.errors import ArchitectureError, ArgumentError
from blurify.files import build_architecture, looks_like_architecture, read_model


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("timm:test_resnet", "ResNet"),
        ("timm:test_resnet.r160_in1k", "ResNet"),
        ("torchvision:squeezenet1_1", "SqueezeNet"),
        ("torchvision:lraspp_mobilenet_v3_large", "LRASPP"),
        ("torchvision:ssdlite320_mobilenet_v3_large", "SSD"),
        ("torchvision.models:squeezenet1_1", "SqueezeNet"),
        ("torch.nn:Sequential", "Sequential"),
        ("torchvision.models.squeezenet:SqueezeNet?version=1_1", "SqueezeNet"),
    ],
)
def test_builds_without_a_network(name: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "socket", None)
    assert type(build_architecture(name)).__name__ == kind


def test_googlenet_warns_nobody() -> None:
    assert build_architecture("torchvision:googlenet?num_classes=3").fc.out_features == 3


def test_options_are_literals_or_text() -> None:
    model = build_architecture("timm:test_resnet?num_classes=10&in_chans=1&global_pool=max")
    assert (model.num_classes, model.conv1[0].in_channels, model.global_pool.pool_type) == (10, 1, "max")


def test_random_numbers_are_left_as_found() -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    build_architecture("timm:test_resnet")
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("timm:resnet19", "timm has no architecture 'resnet19'; did you mean timm:resnet18, "),
        ("torchvision:resnet19", "torchvision has no architecture 'resnet19'; did you mean torchvision:resnet18, "),
        ("timm:googlenet", "timm has no architecture 'googlenet'; did you mean torchvision:googlenet."),
        ("timm:qqqqqqqq", "timm has no architecture 'qqqqqqqq'; see timm's list."),
        ("timm:hf-hub:someone/else", "timm has no architecture 'hf-hub:someone/else'; "),
        ("tim:resnet18", "'tim:resnet18' cannot be built: No module named 'tim'; did you mean timm:resnet18."),
        ("resnet18", "'resnet18' is not an architecture; did you mean timm:resnet18 or torchvision:resnet18."),
        ("resnt18", "'resnt18' is not an architecture; did you mean timm:resnet18, timm:"),
        ("qqqqqqqq", "'qqqqqqqq' is not an architecture; write timm:NAME, torchvision:NAME or package.module:factory."),
        (
            "no_such_package.x:f",
            "'no_such_package.x:f' cannot be built: No module named 'no_such_package'; use timm:, ",
        ),
        (
            "torchvision.models:resnet19",
            "'torchvision.models:resnet19' cannot be built: torchvision.models has no 'resn",
        ),
        ("torchvision.models:__name__", "'torchvision.models:__name__' is not something that can be called to make a"),
        ("os:getcwd", "'os:getcwd' makes a str, not a torch.nn.Module; name one that makes a model."),
        ("timm:test_resnet?depth=9", "'timm:test_resnet?depth=9' cannot be built: ResNet.__init__() got an unexpected"),
        ("timm:test_resnet?depth", "'depth' in 'timm:test_resnet?depth' is not key=value; write timm:test_resnet?key="),
        (
            "timm:test_resnet.nope",
            "'timm:test_resnet.nope' cannot be built: Invalid pretrained tag (nope) for test_resn",
        ),
        ("timm:test_resnet?pretrained=True", "'pretrained' in 'timm:test_resnet?pretrained=True' is about weights; "),
        ("torchvision:resnet18?weights=DEFAULT", "'weights' in 'torchvision:resnet18?weights=DEFAULT' is about weig"),
        (
            "timm:test_resnet?checkpoint_path=evil.pt",
            "'checkpoint_path' in 'timm:test_resnet?checkpoint_path=evil.pt' ",
        ),
    ],
)
def test_refused_by_name(name: str, message: str) -> None:
    with pytest.raises(ArchitectureError) as raised:
        build_architecture(name)
    assert str(raised.value).startswith(message)
    assert str(raised.value).endswith(".")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        *(("timm:a", True), ("torchvision:a?b=c/d", True), ("a.b:c.d", True)),
        *(("a.pt", False), ("C:\\net.pt", False), ("x:/a", False), ("", False), ("a/b:c", False)),
    ],
)
def test_a_name_is_told_from_a_path(text: str, expected: bool) -> None:
    assert looks_like_architecture(text) is expected


def test_a_source_by_name_is_in_eval_mode_and_knows_its_architecture() -> None:
    loaded = read_model("timm:test_resnet")
    assert (loaded.form, loaded.arch, loaded.path) == ("architecture", "timm:test_resnet", None)
    assert not any(module.training for module in loaded.model.modules())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"arch": "timm:resnet18"}, "timm:test_resnet is an architecture; --arch timm:resnet18 cannot be combined"),
    ],
)
def test_arguments_that_contradict(options: dict[str, str], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        read_model("timm:test_resnet", **options)


def test_pretrained_goes_with_a_name(tmp_path: Path) -> None:
    torch.save({}, tmp_path / "w.pt")
    with pytest.raises(ArgumentError, match=r"Pretrained weights go with a name .* names a file"):
        read_model(tmp_path / "w.pt", pretrained=True)
    with pytest.raises(ArchitectureError, match="Pretrained weights exist for timm: and torchvision: names, not for"):
        read_model("torch.nn:Identity", pretrained=True)


def _offline(*_: object, **__: object) -> nn.Module:
    raise OSError("<urlopen error [Errno -2] Name or service not known>")


def test_pretrained_without_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timm, "create_model", _offline)
    with pytest.raises(ArchitectureError) as raised:
        read_model("timm:resnet18", pretrained=True)
    assert str(raised.value) == (
        "The pretrained weights of 'timm:resnet18' cannot be had: <urlopen error [Errno -2] Name or service not known>"
        "; check the network, or give a weights file with --arch timm:resnet18."
    )


def test_pretrained_is_asked_of_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    build = timm.create_model

    def create_model(name: str, pretrained: bool) -> nn.Module:
        asked.append(pretrained)
        return build(name)

    monkeypatch.setattr(timm, "create_model", create_model)
    assert read_model("timm:test_resnet", pretrained=True).arch == "timm:test_resnet"
    assert asked[0] is True


def test_a_pretrained_model_that_its_name_does_not_rebuild_has_no_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    def builder(*, weights: str | None = None) -> nn.Module:
        model = torchvision.models.squeezenet1_1()
        model.transform_input = weights is not None  # as torchvision's GoogLeNet and Inception do
        return model

    monkeypatch.setattr(torchvision.models, "get_model_builder", lambda name: builder)
    assert read_model("torchvision:squeezenet1_1", pretrained=True).arch is None
    assert read_model("torchvision:squeezenet1_1").arch == "torchvision:squeezenet1_1"
