"""Checkpoints of training scripts: which of what they hold are the weights, and under which names.

timm, torchvision, Lightning and their like keep the weights under a key, beside an optimizer's state that nothing here
looks at. Wrappers put words before the names (`module.`, `model.`); those are known by what fits the architecture.
"""

from __future__ import annotations

import re
from collections import Counter, OrderedDict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from blurify.errors import ArchitectureError, FileError

HOLDERS = ("state_dict", "model", "model_state_dict")
AVERAGED = (
    *("state_dict_ema", "model_ema", "ema_state_dict", "model_ema_state_dict", "ema_model", "ema", "averaged_model"),
)
# Names of parts that hold averaged weights inside one state_dict.
_AVERAGED_PART = re.compile(r"(^|_)(ema|averaged?|avg|swa)(_|$)")
# torch's AveragedModel counts its steps; Lightning's WeightAveraging puts that count beside the averaged state_dict.
_COUNT, _LIGHTNING = "n_averaged", "averaging_state"
# What torch.compile, FSDP and activation checkpoints put into names, at any depth.
_WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
# What nn.DataParallel around a part puts there; a network may have a part of that name itself.
_PARALLEL = "module"
# Files from before torch 0.4.1 lack these, and the norms do without.
_MAY_LACK = "num_batches_tracked"


@dataclass(frozen=True)
class Weights:
    """A state_dict as a file has it, the key it was under, and whether it is averaged."""

    state: Mapping[str, Any]
    holder: str = ""
    averaged: bool = False


def find_weights(content: object, *, ema: bool = False) -> Weights | None:
    """Return the state_dict that a file's content is or holds, or None; with `ema`, one that may be averaged.

    >>> find_weights({"epoch": 3, "state_dict": {"bias": torch.zeros(1)}}).holder
    'state_dict'
    """
    if not isinstance(content, Mapping):
        return None
    if is_state_dict(content):
        return Weights(content, averaged=_COUNT in content)
    found = [
        Weights(value, key, _is_averaged(key, value, content))
        for key, value in _ordered(content, ema)
        if is_state_dict(value)
    ]
    return found[0] if found else None


def find_module(content: object, *, ema: bool = False) -> nn.Module | None:
    """Return the module that a file's content is or holds, or None.

    >>> find_module({"epoch": 3, "model": nn.ReLU()})
    ReLU()
    """
    held = [value for _, value in _ordered(content, ema)] if isinstance(content, dict) else [content]
    found = next((each for each in held if isinstance(each, nn.Module)), None)
    return found._modules.get("module") if isinstance(found, nn.DataParallel) else found


def is_state_dict(value: object) -> bool:
    """Say whether it maps names to tensors, and not to what does.

    >>> is_state_dict({"bias": torch.zeros(1)})
    True
    """
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        return False
    # A tensor among the values tells it from a checkpoint, whose tensors are one level down.
    return _holds_tensors(value) and not any(_holds_tensors(item) for item in value.values())


def fitted(found: Weights, model: nn.Module, *, path: Path, arch: str, ema: bool = False) -> tuple[dict[str, Any], str]:
    """The weights by the architecture's own names, and what stood before these in the file.

    >>> fitted(Weights({"model.bias": torch.zeros(1)}), model, path=Path("last.ckpt"), arch="timm:resnet18")
    ({'bias': tensor([0.])}, 'model')

    Raises:
        ArchitectureError: there are several networks of this kind in it.
        FileError: averaged weights were asked for and there are none.
    """
    own = model.state_dict()
    state = _without_parallel(_unwrapped(found.state), own)
    counts = _prefixes(state, own)
    needed = [key for key in own if not key.endswith(_MAY_LACK)]
    whole = [prefix for prefix in counts if all(_join(prefix, key) in state for key in needed)]
    chosen = [prefix for prefix in whole if ema == (found.averaged or _is_averaged_part(prefix))]
    if ema and not chosen:
        raise FileError(f"{path} holds no averaged weights of {arch}; leave --ema out.")
    # Where nothing fits whole, what fits for the most part is what is told of.
    prefixes = chosen or whole or [prefix for prefix in counts if 2 * counts[prefix] > len(own)] or [""]
    if not _agree(state, prefixes, needed):
        names = " and ".join(f"{prefix}." for prefix in prefixes)
        raise ArchitectureError(
            f"{path} holds several networks that are {arch}, named {names}; save the state_dict of one of them."
        )
    return _below(state, prefixes[0]), prefixes[0]


def _ordered(content: Mapping[Any, Any], ema: bool) -> Iterator[tuple[str, Any]]:
    """List the possible state_dicts of a checkpoint, the likeliest first."""
    known = [*AVERAGED, *HOLDERS] if ema else [*HOLDERS, *AVERAGED]
    yield from ((key, content[key]) for key in known if key in content)
    yield from ((key, value) for key, value in content.items() if isinstance(key, str) and key not in known)


def _is_averaged(key: str, value: Mapping[str, Any], content: Mapping[Any, Any]) -> bool:
    return key in AVERAGED or _COUNT in value or (key == "state_dict" and _LIGHTNING in content)


def _is_averaged_part(prefix: str) -> bool:
    return any(_AVERAGED_PART.search(part) for part in prefix.split("."))


def _holds_tensors(value: object) -> bool:
    # Not by asking again whether it is a state_dict: a pickled dict can hold itself.
    return isinstance(value, Mapping) and any(isinstance(item, Tensor) for item in value.values())


def _unwrapped(state: Mapping[str, Any]) -> Mapping[str, Any]:
    if not any(part in key for key in state for part in _WRAPPERS):
        return state
    return OrderedDict(
        (".".join(part for part in key.split(".") if part not in _WRAPPERS), value) for key, value in state.items()
    )


def _without_parallel(state: Mapping[str, Any], own: Collection[str]) -> Mapping[str, Any]:
    """Leave `module` out of the middle of names, if the architecture has no part of that name."""
    if any(_PARALLEL in key.split(".") for key in own):
        return state
    renamed = OrderedDict((_without_inner(key), value) for key, value in state.items())
    return renamed if len(renamed) == len(state) else state


def _without_inner(key: str) -> str:
    first, *others = key.split(".")
    return ".".join([first, *(part for part in others if part != _PARALLEL)])


def _prefixes(state: Mapping[str, Any], own: Collection[str]) -> Counter[str]:
    """Return the prefixes of the architecture's names, each with how many names it fits."""
    counts: Counter[str] = Counter()
    for key in state:
        at = -1
        while True:
            if key[at + 1 :] in own:
                counts[key[: max(at, 0)]] += 1
            at = key.find(".", at + 1)
            if at < 0:
                break
    return counts


def _join(prefix: str, key: str) -> str:
    return f"{prefix}.{key}" if prefix else key


def _agree(state: Mapping[str, Any], prefixes: list[str], names: list[str]) -> bool:
    """Return whether it makes no difference which is taken: one module may be reached by two names."""
    first = [state.get(_join(prefixes[0], name)) for name in names]
    return all(
        isinstance(one, Tensor) and isinstance(other, Tensor) and torch.equal(one, other)
        for prefix in prefixes[1:]
        for one, other in zip(first, (state.get(_join(prefix, name)) for name in names), strict=True)
    )


def _below(state: Mapping[str, Any], prefix: str) -> Any:
    if not prefix:
        return state
    start = f"{prefix}."
    return OrderedDict((key[len(start) :], value) for key, value in state.items() if key.startswith(start))
