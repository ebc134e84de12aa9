"""The one source of real networks: built once a worker, the same each time, and handed out as copies."""

from __future__ import annotations

import copy
import warnings
from functools import lru_cache
from typing import Any

import timm
import torch
import torchvision
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from tests.conftest import randomize_statistics


def network(name: str, **sizes: Any) -> nn.Module:
    """Return a copy of `library:architecture` in eval mode, with norms whose statistics matter."""
    return copy.deepcopy(_network(name, tuple(sorted(sizes.items()))))


@lru_cache(maxsize=4)
def _network(name: str, sizes: tuple[tuple[str, Any], ...]) -> nn.Module:
    library, _, architecture = name.partition(":")
    build = timm.create_model if library == "timm" else torchvision.models.get_model
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        # torchvision warns that two networks will one day be initialised otherwise.
        warnings.simplefilter("ignore", FutureWarning)
        torch.manual_seed(0)
        return randomize_statistics(build(architecture, **dict(sizes))).eval()


class Uninitialised(TorchFunctionMode):
    """Leave out random initialisation, where a network's weights are given to it afterwards."""

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        if func in (Tensor.normal_, Tensor.uniform_):
            return args[0]
        return func(*args, **(kwargs or {}))
