"""A model by its name, with the weights that the name stands for; a network that fails is asked again, then named."""

from __future__ import annotations

import socket
import time
import urllib.error
from collections.abc import Sequence
from typing import Any

from torch import nn

from blurify import files
from blurify.errors import ArchitectureError, causes, one_line
from blurify.files.reading import rebuilds
from blurify.zoo.catalogue import SOURCES

# Seconds before it is tried again.
DELAYS = (1.0, 5.0, 25.0)


def read(name: str, *, pretrained: bool, delays: Sequence[float] = DELAYS) -> files.LoadedModel:
    """Return the model of a name in eval mode, and as which architecture it can be rebuilt.

    >>> read("timm:resnet18", pretrained=False).arch
    'timm:resnet18'

    Raises:
        ArchitectureError: there is none of that name, or its weights cannot be had.
    """
    for delay in delays:
        try:
            return _read(name, pretrained)
        except ArchitectureError as error:
            if not is_network(error) or is_offline():
                raise
            time.sleep(delay)
    return _read(name, pretrained)


def _read(name: str, pretrained: bool) -> files.LoadedModel:
    if name.partition(":")[0] in SOURCES:
        return _from_timm_source(name, pretrained)
    return files.read_model(name, pretrained=pretrained)


def _from_timm_source(name: str, pretrained: bool) -> files.LoadedModel:
    """Return a model of the hub or of a folder; it is written as the architecture that its configuration names."""
    import timm

    try:
        model = timm.create_model(name, pretrained=pretrained).eval()
    except Exception as error:  # what a configuration or a network can do wrong is not ours to list
        fact = one_line(error)
        raise ArchitectureError(f"{name!r} cannot be had: {fact}; check the name and the network.") from error
    arch = _architecture(model)
    return files.LoadedModel(model, "architecture", arch if arch and rebuilds(model, arch) else None, None)


def _architecture(model: nn.Module) -> str | None:
    config = getattr(model, "pretrained_cfg", None) or {}
    if not config.get("architecture"):
        return None
    options: dict[str, Any] = {"num_classes": getattr(model, "num_classes", None), **getattr(model, "_model_args", {})}
    known = {key: value for key, value in options.items() if key != "pretrained_model_args" and value is not None}
    return f"timm:{config['architecture']}" + "".join(
        f"{'&' if position else '?'}{key}={value}" for position, (key, value) in enumerate(known.items())
    )


def is_network(error: BaseException) -> bool:
    """Return whether what went wrong is, at bottom, that something could not be fetched.

    >>> is_network(TimeoutError())
    True
    """
    return any(isinstance(each, _fetching()) or _is_transport(each) for each in causes(error))


def _is_transport(error: BaseException) -> bool:
    # Through which package the hub's client asks differs from version to version; what it raises has this name.
    return any(kind.__name__ == "TransportError" for kind in type(error).__mro__)


def _fetching() -> tuple[type[BaseException], ...]:
    plain = (urllib.error.URLError, ConnectionError, TimeoutError, socket.gaierror)
    try:
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled
    except ImportError:  # timm needs it to fetch anything, so nothing was fetched
        return plain
    return (*plain, HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled)


def is_offline() -> bool:
    """Return whether the user has told the hub's client to use what is on this machine alone.

    >>> is_offline()
    False
    """
    try:
        from huggingface_hub import constants
    except ImportError:
        return False
    return bool(constants.HF_HUB_OFFLINE)


def bare(name: str) -> str:
    """Return the architecture of a name, which needs no weights to be built and planned.

    >>> bare("timm:resnet50.a1_in1k")
    'timm:resnet50.a1_in1k'
    """
    if name.partition(":")[0] not in SOURCES:
        return name
    import torch

    with torch.device("meta"):
        return _from_timm_source(name, pretrained=False).arch or name
