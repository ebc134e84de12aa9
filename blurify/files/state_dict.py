"""A `state_dict`, bare or inside a checkpoint: find it, and load it into an architecture, strictly."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from blurify.errors import ArchitectureError

HOLDERS = ("state_dict", "model", "model_state_dict", "state_dict_ema")

# What DistributedDataParallel/DataParallel and torch.compile put before every name.
_WRAPPERS = ("module.", "_orig_mod.")

_SHOWN = 3


def find_state_dict(content: object) -> dict[str, Any] | None:
    """Return the state_dict that a file's content is or holds, free of wrappers' prefixes, or None.

    >>> find_state_dict({"epoch": 3, "state_dict": {"module.bias": torch.zeros(1)}})
    {'bias': tensor([0.])}
    """
    if not isinstance(content, Mapping):
        return None
    for candidate in (content, *(content.get(holder) for holder in HOLDERS)):
        if _is_state_dict(candidate):
            return _unwrapped(candidate)
    return None


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


def _is_state_dict(value: object) -> bool:
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        return False
    # A tensor among the values tells it from a checkpoint, whose tensors are one level down.
    return _holds_tensors(value) and not any(_holds_tensors(item) for item in value.values())


def _holds_tensors(value: object) -> bool:
    # Not by asking again whether it is a state_dict: a pickled dict can hold itself.
    return isinstance(value, Mapping) and any(isinstance(item, Tensor) for item in value.values())


def _unwrapped(state: Any) -> dict[str, Any]:
    for prefix in _WRAPPERS:
        if all(key.startswith(prefix) for key in state):
            return _unwrapped(OrderedDict((key[len(prefix) :], value) for key, value in state.items()))
    return state  # type: ignore[no-any-return]


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
    text = ", ".join(filter(None, facts)) or " ".join(str(error).split())
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
