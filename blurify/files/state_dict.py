"""A `state_dict` into an architecture, strictly."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from blurify.errors import ArchitectureError, one_line

_SHOWN = 3


# What timm and others call the layers that give the classes, where they do not say it themselves.
_CLASSIFIERS = ("fc", "classifier", "classif", "head", "heads", "head_dist", "last_linear", "logits", "output")


def load_weights(model: nn.Module, state: Mapping[str, Any], *, arch: str, path: Path, backbone: bool = False) -> str:
    """Load `state` into `model`, in the file's precision; say precisely what does not fit.

    With `backbone` the classifier may lack its weights. The text returned names what was left random, or is empty.

    >>> load_weights(model, state, arch="timm:resnet18", path=Path("weights.pt"))
    ''
    """
    shared = {value.dtype for value in state.values() if isinstance(value, Tensor) and value.is_floating_point()}
    if len(shared) == 1:
        model.to(shared.pop())
    own = model.state_dict()
    lacking = [name for name in own if not _fits(state.get(name), own[name])]
    is_backbone = bool(lacking) and all(_is_of_classifier(name, model) for name in lacking)
    if backbone and is_backbone:
        fitting = {name: value for name, value in state.items() if name in own and name not in lacking}
        model.load_state_dict(fitting, strict=False)
        return f"{_some(f'{len(lacking)} weights of the classifier', lacking)} are left random"
    try:
        model.load_state_dict(state, strict=True)
    except Exception as error:  # the model's own code reads its extra state
        hint = "all but the classifier fits: add --backbone to leave that random" if is_backbone else ""
        raise ArchitectureError(f"{path} does not fit {arch}: {_misfit(model, state, arch, error, hint)}.") from error
    return ""


def _fits(value: Any, own: Any) -> bool:
    return value is not None and getattr(value, "shape", None) == getattr(own, "shape", None)


def _is_of_classifier(name: str, model: nn.Module) -> bool:
    config = getattr(model, "pretrained_cfg", None)
    said = config.get("classifier") if isinstance(config, Mapping) else None
    own = (said,) if isinstance(said, str) else tuple(said or _CLASSIFIERS)
    return any(name.startswith(f"{classifier}.") for classifier in own)


def _misfit(model: nn.Module, state: Mapping[str, Any], arch: str, error: Exception, hint: str) -> str:
    own = model.state_dict()
    missing = [key for key in own if key not in state]
    unexpected = [key for key in state if key not in own]
    shapes = [
        (key, tuple(state[key].shape), tuple(own[key].shape))
        for key in own
        if isinstance(state.get(key), Tensor) and state[key].shape != own[key].shape
    ]
    facts = [_some(f"{len(missing)} missing", missing), _some(f"{len(unexpected)} unexpected", unexpected)]
    facts += [f"{key} has shape {theirs} in the file and {ours} in the model" for key, theirs, ours in shapes[:_SHOWN]]
    if len(shapes) > _SHOWN:
        facts.append(f"{len(shapes)} shapes differ in all")
    text = ", ".join(filter(None, facts)) or one_line(error)
    return f"{text}; {_hint(shapes, arch, hint)}"


def _some(count: str, keys: list[str]) -> str:
    if not keys:
        return ""
    shown = ", ".join(keys[:_SHOWN])
    return f"{count} ({shown}, ...)" if len(keys) > _SHOWN else f"{count} ({shown})"


def _hint(shapes: list[tuple[str, tuple[int, ...], tuple[int, ...]]], arch: str, hint: str) -> str:
    classes = {theirs[0] for _, theirs, ours in shapes if theirs[1:] == ours[1:] and len(theirs) in (1, 2)}
    if len(classes) == 1 and all(theirs[1:] == ours[1:] for _, theirs, ours in shapes):
        base, _, query = arch.partition("?")
        kept = [item for item in query.split("&") if item and not item.startswith("num_classes=")]
        options = "&".join([*kept, f"num_classes={classes.pop()}"])
        return f"the number of classes differs: try --arch '{base}?{options}'"
    return hint or "name the architecture the weights were saved from with --arch"
