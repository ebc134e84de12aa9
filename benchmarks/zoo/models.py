"""Every architecture of timm and torchvision by name: built without trained weights, and the inputs it takes."""

from __future__ import annotations

import warnings
from functools import cache
from typing import Any

import timm
import torch
import torchvision
from torch import nn

from blurify.files.architecture import build_architecture
from blurify.tracing.inputs import Inputs
from blurify.zoo.architectures import Shape, inputs_of, meta_device, own_shape, task

SIDES = (64, 96, 128, 192, 224, 256)
ODD_SIDES = ((67, 83), (99, 115), (131, 163), (225, 257), (307, 331))


def all_names() -> list[str]:
    """`library:architecture` of everything that the two libraries list."""
    names = [f"timm:{name}" for name in timm.list_models()]
    return names + [f"torchvision:{name}" for name in torchvision.models.list_models()]


def family(name: str) -> str:
    """The module of the library that defines the architecture."""
    library, _, architecture = name.partition(":")
    if library == "timm":
        return _timm_families()[architecture]
    return ".".join(torchvision.models.get_model_builder(architecture).__module__.split(".")[2:])


@cache
def _timm_families() -> dict[str, str]:
    return {name: module for module in timm.list_modules() for name in timm.list_models(module=module)}


def make(name: str, device: str = "meta", **sizes: Any) -> nn.Module:
    """Build the architecture in eval mode with seeded random weights; of a detector, the backbone.

    `sizes` go to its builder, to make a smaller network of the same kind.
    """
    query = "&".join(f"{key}={value}" for key, value in sizes.items())
    torch.manual_seed(0)
    with warnings.catch_warnings(), meta_device(name) if device == "meta" else torch.device(device):
        warnings.simplefilter("ignore")
        model = build_architecture(f"{name}?{query}").to(device)
    return (model.backbone if task(name) == "detection" else model).eval()


def given_inputs(name: str, model: nn.Module) -> Inputs | None:
    """What a user must pass because the model takes something else than one image; None for the others."""
    if task(name) in ("video", "optical_flow"):
        return inputs_of(name, model, own_shape(name, model))
    return None


# At smaller sizes the last maps have one position, and what norms make of it misses 1e-10 even in float64.
LEAST_SIDES = {"timm:inception_v4": 128}


def workable_shapes(name: str, model: nn.Module) -> list[Shape]:
    """The smallest square shape that the model runs on, then the smallest odd one, if it takes any."""
    own = own_shape(name, model)
    least = LEAST_SIDES.get(name, 0)
    squares = [*((*own[:-2], side, side) for side in SIDES if least <= side < own[-1]), own]
    odd = [(*own[:-2], *sides) for sides in ODD_SIDES if min(sides) >= least]
    found = (next((shape for shape in shapes if runs(name, model, shape)), None) for shapes in (squares, odd))
    return [shape for shape in found if shape is not None]


def runs(name: str, model: nn.Module, shape: Shape) -> bool:
    """Whether the model takes images of this shape."""
    try:
        with torch.no_grad():
            model(*inputs_of(name, model, shape).args)
    except Exception:
        return False
    return True
