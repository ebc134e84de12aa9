"""Architectures by name: `timm:NAME`, `torchvision:NAME` or `package.module:factory`, then perhaps `?key=value&...`.

Names of other libraries, such as `smp:Unet`, are built by `libraries`.
"""

from __future__ import annotations

import ast
import difflib
import importlib
import inspect
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from blurify.errors import ArchitectureError, one_line
from blurify.files.libraries import PACKAGES, factory_of, without_weights

LIBRARIES = ("timm", "torchvision")

# Options that would fetch or read weights: `--pretrained` and a weights file are the ways to say that.
_WEIGHT_OPTIONS = {
    *("pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir"),
    *("weights", "weights_backbone", "pretrained_backbone", "encoder_weights"),
}


@dataclass(frozen=True)
class Architecture:
    """A parsed name: where it comes from, what it is called, what the factory is called with.

    >>> Architecture.parse("timm:resnet18?num_classes=10")
    Architecture(package='timm', name='resnet18', options={'num_classes': 10})
    """

    package: str
    name: str
    options: dict[str, Any]

    @classmethod
    def parse(cls, text: str) -> Architecture:
        """Read `LIBRARY:NAME?key=value&...`; values are Python literals, or else plain text.

        >>> Architecture.parse("torchvision:vgg16").package
        'torchvision'
        """
        base, _, query = text.partition("?")
        library, colon, name = base.partition(":")
        if not (colon and library and name):
            raise ArchitectureError(f"{text!r} is not an architecture; {_suggest_for_bare(base)}.")
        return cls(library, name, _options(text, query))

    @property
    def is_known(self) -> bool:
        """Return whether the name belongs to timm or torchvision, so that building it runs none of the user's code."""
        return self.package in LIBRARIES


def looks_like_architecture(text: str) -> bool:
    """Say whether a text has the form of an architecture rather than of a path.

    >>> looks_like_architecture("timm:resnet18"), looks_like_architecture("models/a.pt")
    (True, False)
    """
    return re.match(r"[A-Za-z_][\w.]+:[^/\\]", text) is not None


def build_architecture(name: str, *, pretrained: bool = False) -> nn.Module:
    """Build the architecture of that name, with random weights or, on request, its library's own.

    >>> build_architecture("timm:resnet18?num_classes=10").fc.out_features
    10
    """
    architecture = Architecture.parse(name)
    builders = {"timm": _build_timm, "torchvision": _build_torchvision}
    builders |= dict.fromkeys(PACKAGES, _build_from_library)
    build = builders.get(architecture.package, _build_from_factory)
    # Random initialisation must not move the caller's random numbers.
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The default weight initialization", FutureWarning)
        return build(architecture, name, pretrained)


def _build_timm(architecture: Architecture, text: str, pretrained: bool) -> nn.Module:
    import timm

    if not timm.is_model(architecture.name):
        raise _unknown(architecture, timm.list_models())
    factory = partial(timm.create_model, architecture.name, pretrained=pretrained, **architecture.options)
    return _call(factory, text, pretrained)


def _build_torchvision(architecture: Architecture, text: str, pretrained: bool) -> nn.Module:
    from torchvision import models

    if architecture.name not in models.list_models():
        raise _unknown(architecture, models.list_models())
    factory = models.get_model_builder(architecture.name)
    options = dict(architecture.options, weights="DEFAULT" if pretrained else None)
    # Detection and segmentation builders fetch a trained backbone unless told not to.
    if "weights_backbone" in inspect.signature(factory).parameters:
        options["weights_backbone"] = None
    return _call(partial(factory, **options), text, pretrained)


def _build_from_library(architecture: Architecture, text: str, pretrained: bool) -> nn.Module:
    _refuse_pretrained(text, pretrained)
    return _call(factory_of(architecture.package, architecture.name, architecture.options), text, False)


def _build_from_factory(architecture: Architecture, text: str, pretrained: bool) -> nn.Module:
    _refuse_pretrained(text, pretrained)
    factory = _factory(architecture, text)
    return _call(partial(factory, **without_weights(factory, architecture.options)), text, False)


def _refuse_pretrained(text: str, pretrained: bool) -> None:
    if pretrained:
        raise ArchitectureError(
            f"Pretrained weights exist for timm: and torchvision: names, not for {text!r}; "
            "give a weights file and name this architecture with --arch."
        )


def _factory(architecture: Architecture, text: str) -> Callable[..., Any]:
    try:
        found: Any = importlib.import_module(architecture.package)
    except ImportError as error:
        close = difflib.get_close_matches(architecture.package, LIBRARIES, 1)
        hint = f"did you mean {close[0]}:{architecture.name}" if close else "use timm:, torchvision: or a module's name"
        raise ArchitectureError(f"{text!r} cannot be built: {error}; {hint}.") from error
    for part in architecture.name.split("."):
        if not hasattr(found, part):
            close = difflib.get_close_matches(part, dir(found), 3)
            hint = f"did you mean {_one_of(close)}" if close else "check the name after the colon"
            raise ArchitectureError(f"{text!r} cannot be built: {architecture.package} has no {part!r}; {hint}.")
        found = getattr(found, part)
    if not callable(found):
        raise ArchitectureError(
            f"{text!r} is not something that can be called to make a model; name a class or function."
        )
    return found  # type: ignore[no-any-return]


def _call(factory: Callable[[], Any], text: str, pretrained: bool) -> nn.Module:
    try:
        model = factory()
    except Exception as error:  # the factory is not ours: whatever it raises is a fact to report
        fact = one_line(error)
        if pretrained:
            hint = f"check the network, or give a weights file with --arch {text}"
            raise ArchitectureError(f"The pretrained weights of {text!r} cannot be had: {fact}; {hint}.") from error
        hint = "check what follows the '?'" if "?" in text else "check that it can be built without arguments"
        raise ArchitectureError(f"{text!r} cannot be built: {fact}; {hint}.") from error
    if not isinstance(model, nn.Module):
        kind = type(model).__name__
        raise ArchitectureError(f"{text!r} makes a {kind}, not a torch.nn.Module; name one that makes a model.")
    return model


def _options(text: str, query: str) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for item in filter(None, query.split("&")):
        key, equals, value = item.partition("=")
        if not equals or not key.isidentifier():
            raise ArchitectureError(f"{item!r} in {text!r} is not key=value; write {text.partition('?')[0]}?key=value.")
        if key in _WEIGHT_OPTIONS:
            raise ArchitectureError(f"{key!r} in {text!r} is about weights; use --pretrained or give a weights file.")
        options[key] = _literal(value)
    return options


def _literal(value: str) -> Any:
    if "_" in value:  # 1_1 is a version of SqueezeNet, not the number eleven
        return value
    try:
        return ast.literal_eval(value)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):  # all of them mean: no literal
        return value


def _unknown(architecture: Architecture, names: list[str]) -> ArchitectureError:
    close = [f"{architecture.package}:{name}" for name in difflib.get_close_matches(architecture.name, names, 3)]
    elsewhere = [name for name in _exact(architecture.name) if name not in close]
    hint = f"did you mean {_one_of(elsewhere + close)}" if elsewhere + close else f"see {architecture.package}'s list"
    return ArchitectureError(f"{architecture.package} has no architecture {architecture.name!r}; {hint}.")


def _suggest_for_bare(name: str) -> str:
    close = suggestions(name)
    return f"did you mean {_one_of(close)}" if close else "write timm:NAME, torchvision:NAME or package.module:factory"


def suggestions(name: str) -> list[str]:
    """Return the architectures that a bare name may mean, the exact ones alone if there are any.

    >>> suggestions("resnet18")
    ['timm:resnet18', 'torchvision:resnet18']
    """
    exact = _exact(name)
    if exact:
        return exact
    close = [(library, difflib.get_close_matches(name, names, 2)) for library, names in _all_names().items()]
    return [f"{library}:{found}" for library, matches in close for found in matches]


def _exact(name: str) -> list[str]:
    return [f"{library}:{name}" for library, names in _all_names().items() if name in names]


def _all_names() -> dict[str, list[str]]:
    import timm
    from torchvision import models

    return {"timm": timm.list_models(), "torchvision": models.list_models()}


def _one_of(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"
