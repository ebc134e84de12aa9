"""Weights of a checkpoint that fit an architecture: wrappers put words before the names, known by what fits."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

from blurify.errors import ArchitectureError, FileError
from blurify.files.checkpoint import COUNT, Part, asked_for, is_averaged_name, which

# What torch.compile, FSDP and activation checkpoints put into names, at any depth.
_WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
# What nn.DataParallel around a part puts there; a network may have a part of that name itself.
_PARALLEL = "module"
# Files from before torch 0.4.1 lack these, and the norms do without.
_MAY_LACK = "num_batches_tracked"


@dataclass(frozen=True)
class Fit:
    """The weights of a part below a prefix, by the architecture's own names, and how many names of it they have."""

    part: Part
    names: Mapping[str, Any]
    prefix: str
    count: int

    @property
    def place(self) -> tuple[str, ...]:
        """Return the keys that lead there, and the prefix."""
        return (*self.part.place, *([self.prefix] if self.prefix else []))

    @property
    def averaged(self) -> bool:
        """Whether the weights are averaged."""
        words = self.prefix.split(".")
        return self.part.averaged or COUNT in self.part.value or any(map(is_averaged_name, words))

    def state(self) -> Mapping[str, Any]:
        """Return the weights, and what else has the prefix."""
        if not self.prefix:
            return self.names
        start = f"{self.prefix}."
        return OrderedDict((key[len(start) :], value) for key, value in self.names.items() if key.startswith(start))

    def text(self) -> str:
        """Where the weights are, for the user, or nothing if they are all that is in the file."""
        places = [f"under {'.'.join(self.part.place)!r}"] if self.part.place else []
        places += [f"named '{self.prefix}.*'"] if self.prefix else []
        return f"the weights are those {' and '.join(places)}" if places else ""


def fitting(
    parts: Sequence[Part], model: nn.Module, *, path: Path, arch: str, ema: bool = False, key: str | None = None
) -> Fit:
    """Return the weights that fit the architecture; where nothing fits, the largest part.

    >>> fitting([Part({"model.bias": torch.zeros(1)})], model, path=Path("last.ckpt"), arch="timm:resnet18").prefix
    'model'

    Raises:
        ArchitectureError: there are several networks of this kind in it.
        FileError: averaged weights were asked for and there are none.
    """
    own = model.state_dict()
    needed = [name for name in own if not name.endswith(_MAY_LACK)]
    fits = [fit for part in parts for fit in _fits(part, own)]
    found = _best(fits, own, needed)
    if ema and not any(fit.averaged for fit in found):
        raise FileError(f"{path} holds no averaged weights of {arch}; remove --ema.")
    if not found:
        # A few names that agree below some prefix by chance are no fit.
        largest = max(parts, key=lambda part: len(part.value))
        return Fit(largest, largest.value, "", 0)
    chosen = asked_for(found, path, ema=ema, key=key)
    if not _agree([fit.state() for fit in chosen], needed):
        raise ArchitectureError(f"{path} holds several networks that are {arch}, {which(chosen)}.")
    return chosen[0]


def _fits(part: Part, own: Collection[str]) -> list[Fit]:
    names = _without_parallel(_unwrapped(part.value), own)
    return [Fit(part, names, prefix, count) for prefix, count in _prefixes(names, own).items()]


def _best(fits: Sequence[Fit], own: Mapping[str, Any], needed: Collection[str]) -> list[Fit]:
    """Return the fits of all names and sizes, or else of all names, or else of most names."""
    whole = [fit for fit in fits if all(_join(fit.prefix, name) in fit.names for name in needed)]
    exact = [fit for fit in whole if all(_same_size(fit.names[_join(fit.prefix, name)], own[name]) for name in needed)]
    most = max((fit.count for fit in fits), default=0)
    return exact or whole or [fit for fit in fits if fit.count == most and 2 * fit.count > len(own)]


def _same_size(value: Any, own: Any) -> bool:
    if not isinstance(own, Tensor) or isinstance(own, (UninitializedParameter, UninitializedBuffer)):
        return True
    return isinstance(value, Tensor) and value.shape == own.shape


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


def _agree(states: Sequence[Mapping[str, Any]], names: Collection[str]) -> bool:
    """Return whether it makes no difference which is taken: one module may be reached by two names."""
    first, *others = states
    return all(_equal(first.get(name), other.get(name)) for other in others for name in names)


def _equal(one: Any, other: Any) -> bool:
    if not (isinstance(one, Tensor) and isinstance(other, Tensor)):
        return one is other
    return one is other or torch.equal(one, other)
