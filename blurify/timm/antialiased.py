"""The entry points `blur_NAME`, in the form that timm's registry asks of a module that holds models.

timm reads `__all__` and `default_cfgs` of the module that an entry point says to be of, and calls the module by the
last part of its name: `timm.list_models(module="antialiased")`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import timm
from timm.models import DefaultCfg, get_pretrained_cfg, model_entrypoint, register_model
from timm.models import _registry as registry
from timm.models._features import FeatureHookNet
from torch import nn

from blurify.api import antialias
from blurify.errors import ArgumentError
from blurify.planning.spec import ARGUMENTS

__all__: list[str] = []

PREFIX = "blur_"
# What `antialias` may be asked for, each under the prefix.
OPTIONS = (*ARGUMENTS, "partial")

default_cfgs: dict[str, Any] = {}


def register() -> None:
    """Give every model of timm's registry an antialiased variant, `blur_` and its name.

    >>> register()
    >>> "blur_resnet50" in timm.list_models()
    True

    `timm.create_model("blur_NAME", pretrained=True, ...)` makes what it makes of `NAME`, weights and all, and
    antialiases that with `form="class"`. The arguments of `blurify.antialias` go by the same prefix:
    `blur_filt_size=3`, `blur_stem=True`, `blur_exclude="layer4.*"`, `blur_partial=True`. Tags are the original's:
    `blur_resnet50.a1_in1k`.
    `model.pretrained_cfg["architecture"]` is the variant's name, so that what timm saves, it makes again.

    A second call adds what was registered with timm since the first.
    """
    tags: dict[str, list[str]] = {name: [] for name in timm.list_models()}
    for tagged in timm.list_models(include_tags=True):
        name, _, tag = tagged.partition(".")
        tags[name].append(tag)
    for name, of_name in tags.items():
        variant = PREFIX + name
        # A variant of a variant would be antialiased already.
        if variant not in tags and name not in __all__:
            default_cfgs[variant] = configurations(name, of_name)
            register_model(entry_point(name, variant))


def unregister() -> None:
    """Take the variants out of timm's registry again; models that were made stay what they are.

    >>> unregister()
    >>> "blur_resnet50" in timm.list_models()
    False
    """
    for variant in __all__:
        for each in (variant, *registry._model_with_tags.pop(variant, ())):
            registry._model_pretrained_cfgs.pop(each, None)
            registry._model_has_pretrained.discard(each)
        for table in (registry._model_entrypoints, registry._model_to_module, registry._model_default_cfgs):
            table.pop(variant, None)
    registry._module_to_models.pop(__name__.rpartition(".")[2], None)
    __all__.clear()
    default_cfgs.clear()


def configurations(name: str, tags: list[str]) -> Any:
    """Return timm's configurations of a model's weights, the default first."""
    first = get_pretrained_cfg(name)
    cfgs = {} if first is None else {first.tag or "": first}
    for tag in tags:
        cfg = get_pretrained_cfg(f"{name}.{tag}" if tag else name)
        if cfg is not None:
            cfgs.setdefault(tag, cfg)
    return DefaultCfg(tags=deque(cfgs), cfgs=cfgs, is_pretrained=any(cfg.has_weights for cfg in cfgs.values()))


def entry_point(name: str, variant: str) -> Callable[..., nn.Module]:
    """Return the function that `timm.create_model` calls for the variant."""
    original = model_entrypoint(name)

    def build(pretrained: bool = False, pretrained_cfg: Any = None, **options: Any) -> nn.Module:
        wishes = {key.removeprefix(PREFIX): options.pop(key) for key in list(options) if key.startswith(PREFIX)}
        check_options(wishes, variant)
        if pretrained_cfg is None or isinstance(pretrained_cfg, str):
            known: Any = get_pretrained_cfg(f"{variant}.{pretrained_cfg}" if pretrained_cfg else variant)
            pretrained_cfg = None if known is None else known.to_dict()
        model = original(pretrained=pretrained, pretrained_cfg=pretrained_cfg, **options)
        check_features(model, variant)
        converted: nn.Module = antialias(model, **wishes, form="class", inplace=True)
        return converted

    build.__name__ = build.__qualname__ = variant
    build.__doc__ = f"{name}, antialiased."
    return build


def check_options(wishes: dict[str, Any], variant: str) -> None:
    """Refuse what `antialias` cannot be asked for.

    Raises:
        ArgumentError: an option is unknown.
    """
    unknown = next((wish for wish in wishes if wish not in OPTIONS), None)
    if unknown is not None:
        known = ", ".join(PREFIX + option for option in OPTIONS)
        raise ArgumentError(f"{variant} has no option {PREFIX + unknown!r}; those of the blur are {known}.")


def check_features(model: nn.Module, variant: str) -> None:
    """Refuse a model whose outputs are what hooks have put aside: no recording of its `forward` shows them.

    Raises:
        ArgumentError: it is one.
    """
    if isinstance(model, FeatureHookNet):
        raise ArgumentError(
            f"{variant} takes its features by hooks, whose work cannot be recorded; "
            "ask for feature_cls='list' or 'getter', or use forward_intermediates without features_only."
        )
