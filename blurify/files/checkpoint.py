"""Checkpoints of training scripts: the parts that can be weights or a model, and which of them is asked for.

timm, torchvision, Lightning and their like keep the weights under a key, at any depth, beside an optimizer's state,
scores and other networks. What the weights fit is said by the architecture; see `fitting`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from blurify.errors import ArchitectureError, FileError

# Names of parts that hold averaged weights: `model_ema`, `params_ema`, `netEMA`, `swa`, `averaged_model`.
_AVERAGED = re.compile(r"(?i:(?:^|[_\W])(?:ema|swa|averaged?|averaging|avg|polyak)(?:[_\W\d]|$))|EMA|Ema(?=[A-Z_]|$)")
# torch's AveragedModel counts its steps; Lightning's WeightAveraging puts that count beside the averaged state_dict,
# and the weights that training goes on with, which are no result, under a key of their own.
COUNT, _LIGHTNING, _UNFINISHED = "n_averaged", "averaging_state", "current_model_state"
_WRAPPERS = (nn.DataParallel, AveragedModel)
# Of keys inside one another.
_DEEPEST = 8


@dataclass(frozen=True)
class Part:
    """A state_dict or a module of a file, the keys that lead to it, and whether its weights are averaged."""

    value: Any
    place: tuple[str, ...] = ()
    averaged: bool = False


class Placed(Protocol):
    """Anything that was found at a place."""

    @property
    def place(self) -> tuple[str, ...]:
        """Return the keys that lead there."""

    @property
    def averaged(self) -> bool:
        """Whether its weights are averaged."""


P = TypeVar("P", bound=Placed)


def find_parts(content: object) -> list[Part]:
    """Return the modules and the mappings of names to tensors that a file's content is or holds, outermost first.

    >>> [part.place for part in find_parts({"epoch": 3, "state": {"model": {"bias": torch.zeros(1)}}})]
    [('state', 'model')]
    """
    found, seen, waiting = [], set(), [Part(content)]
    for part in waiting:  # which grows
        if id(part.value) in seen or len(part.place) > _DEEPEST:
            continue
        seen.add(id(part.value))  # a pickled dict can hold itself
        if isinstance(part.value, nn.Module) or is_state_dict(part.value):
            found.append(part)
        if isinstance(part.value, Mapping):
            unfinished = {_UNFINISHED} if _LIGHTNING in part.value else set()
            keys = [key for key in part.value if isinstance(key, str) and key not in unfinished]
            waiting += [_below(part, key, part.value[key]) for key in keys]
    return found


def _below(part: Part, key: str, value: Any) -> Part:
    lightning = key == "state_dict" and _LIGHTNING in part.value
    counted = isinstance(value, Mapping) and COUNT in value
    return Part(value, (*part.place, key), part.averaged or lightning or counted or is_averaged_name(key))


def is_averaged_name(name: str) -> bool:
    """Return whether a part of that name holds averaged weights.

    >>> is_averaged_name("params_ema"), is_averaged_name("schema"), is_averaged_name("avgpool")
    (True, False, False)
    """
    return _AVERAGED.search(name) is not None


def is_state_dict(value: object) -> bool:
    """Return whether it maps names to tensors, perhaps among other values.

    >>> is_state_dict({"bias": torch.zeros(1)})
    True
    """
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        return False
    return any(isinstance(item, Tensor) for item in value.values())


def find_module(parts: Sequence[Part], path: Path, *, ema: bool = False, key: str | None = None) -> Part | None:
    """Return the network among the parts that is asked for, or None where there is none.

    >>> find_module(find_parts({"model": nn.Conv2d(3, 4, 3)}), Path("m.pt")).place
    ('model',)

    Raises:
        ArchitectureError: there are several.
        FileError: averaged weights are asked for, and none of the networks has such.
    """
    found = [_unwrapped(part) for part in parts if isinstance(part.value, nn.Module)]
    # A loss is a module too.
    networks = [part for part in found if _has_kernels(part.value)] or (found if len(parts) == len(found) else [])
    if not networks:
        return None
    if ema and not any(part.averaged for part in networks):
        raise FileError(f"{path} holds a module without averaged weights; remove --ema.")
    chosen = asked_for(networks, path, ema=ema, key=key)
    if len(chosen) > 1:
        raise ArchitectureError(f"{path} holds several networks, {which(chosen)}.")
    return chosen[0]


def _unwrapped(part: Part) -> Part:
    value, averaged = part.value, part.averaged
    while isinstance(value, _WRAPPERS) and isinstance(value._modules.get("module"), nn.Module):
        averaged |= isinstance(value, AveragedModel)
        value = value._modules["module"]
    return Part(value, part.place, averaged)


def _has_kernels(module: nn.Module) -> bool:
    # Not by the module's own methods, in whose place the user may have allowed anything.
    held = any(value is not None and value.dim() > 2 for value in module._parameters.values())
    return held or any(child is not None and _has_kernels(child) for child in module._modules.values())


def asked_for(found: Sequence[P], path: Path, *, ema: bool, key: str | None) -> list[P]:
    """Return what lies at the key, or else of what is averaged or not as asked for, as far as there is such.

    Raises:
        FileError: nothing lies at the key.
    """
    if key is None:
        return [each for each in found if each.averaged == ema] or list(found)
    at_key = [each for each in found if _lies_at(each.place, key)]
    if not at_key:
        places = ", ".join(sorted({".".join(each.place) or "the whole file" for each in found}))
        raise FileError(f"{path} holds no weights that fit under --key {key}; those that fit are at {places[:300]}.")
    return [each for each in at_key if each.averaged == ema] or at_key


def _lies_at(place: tuple[str, ...], key: str) -> bool:
    return f".{key}." in f".{'.'.join(place)}."


def which(found: Sequence[Placed]) -> str:
    """Return what tells several parts apart, and the options that choose one of them.

    >>> which([Part({}, ("student",)), Part({}, ("teacher",))])
    'at student and teacher, which differ; choose one with --key student or --key teacher'
    """
    places = [each.place for each in found]
    keys = [_own_key(place, [other for other in places if other is not place]) for place in places]
    return f"at {' and '.join(keys)}, which differ; choose one with {' or '.join(f'--key {key}' for key in keys)}"


def _own_key(place: tuple[str, ...], others: Sequence[tuple[str, ...]]) -> str:
    words = [word for key in place for word in key.split(".")]
    own = (word for word in words if not any(_lies_at(other, word) for other in others))
    return next(own, ".".join(place))
