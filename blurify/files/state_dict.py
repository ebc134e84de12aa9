"""A `state_dict` into an architecture, strictly."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from blurify.errors import ArchitectureError, one_line

_SHOWN = 3


def load_weights(model: nn.Module, state: Mapping[str, Any], *, arch: str, path: Path) -> None:
    """Load `state` into `model`, in the file's precision; say precisely what does not fit.

    >>> load_weights(model, state, arch="timm:resnet18", path=Path("weights.pt"))
    """
    shared = {value.dtype for value in state.values() if isinstance(value, Tensor) and value.is_floating_point()}
    if len(shared) == 1:
        model.to(shared.pop())
    try:
        model.load_state_dict(state, strict=True)
    except Exception as error:  # the model's own code reads its extra state
        raise ArchitectureError(f"{path} does not fit {arch}: {_misfit(model, state, arch, error)}.") from error


def _misfit(model: nn.Module, state: Mapping[str, Any], arch: str, error: Exception) -> str:
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
    return f"{text}; {_hint(shapes, arch)}"


def _some(count: str, keys: list[str]) -> str:
    if not keys:
        return ""
    shown = ", ".join(keys[:_SHOWN])
    return f"{count} ({shown}, ...)" if len(keys) > _SHOWN else f"{count} ({shown})"


def _hint(shapes: list[tuple[str, tuple[int, ...], tuple[int, ...]]], arch: str) -> str:
    classes = {theirs[0] for _, theirs, ours in shapes if theirs[1:] == ours[1:] and len(theirs) in (1, 2)}
    if len(classes) == 1 and all(theirs[1:] == ours[1:] for _, theirs, ours in shapes):
        base, _, query = arch.partition("?")
        kept = [item for item in query.split("&") if item and not item.startswith("num_classes=")]
        options = "&".join([*kept, f"num_classes={classes.pop()}"])
        return f"the number of classes differs: try --arch '{base}?{options}'"
    return "name the architecture the weights were saved from with --arch"
