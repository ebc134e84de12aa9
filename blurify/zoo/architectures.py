"""Look up an architecture by its name: its task, its input, its size."""

from __future__ import annotations

import warnings
from typing import Any

import torch
import torchvision
from torch import nn

from blurify.files.architecture import build_architecture
from blurify.tracing.inputs import Inputs, input_size, random_batch

Shape = tuple[int, ...]

FRAMES = 16
# Optical flow compares two images.
PICTURES = {"optical_flow": 2}
OWN_SHAPES = {"video": (3, FRAMES, 224, 224), "detection": (3, 320, 320)}
TASKS = ("detection", "segmentation", "video", "optical_flow", "quantization")


def task(name: str) -> str:
    """Return the task of an architecture, in torchvision's groups.

    >>> task("torchvision:raft_small"), task("timm:resnet18")
    ('optical_flow', 'classification')
    """
    library, _, architecture = name.partition("?")[0].partition(":")
    if library != "torchvision":
        return "classification"
    parts = torchvision.models.get_model_builder(architecture).__module__.split(".")
    return next((group for group in TASKS if group in parts), "classification")


def own_shape(name: str, model: nn.Module) -> Shape:
    """Channels and sizes that the model is made for.

    >>> own_shape("timm:resnet18", timm.create_model("resnet18"))
    (3, 224, 224)
    """
    return OWN_SHAPES.get(task(name)) or input_size(model)


def inputs_of(name: str, model: nn.Module, shape: Shape, batch: int = 1) -> Inputs:
    """Return a batch of the given channels and sizes for every argument of the model.

    >>> inputs_of("timm:resnet18", model, (3, 64, 64)).args[0].shape
    torch.Size([1, 3, 64, 64])
    """
    like = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
    return Inputs(tuple(random_batch((batch, *shape), like) for _ in range(PICTURES.get(task(name), 1))))


def meta_device(name: str) -> Any:
    """Where the architecture can be built without storage for its weights.

    >>> with meta_device("timm:resnet18"):
    ...     model = build_architecture("timm:resnet18")
    """
    # torchvision's RegNets compute their widths with tensors, which needs storage.
    return torch.device("cpu" if name.startswith("torchvision:regnet_") else "meta")


def on_meta(name: str) -> nn.Module:
    """Return the architecture, in eval mode, without storage.

    >>> next(on_meta("timm:resnet18").parameters()).is_meta
    True
    """
    with warnings.catch_warnings(), meta_device(name):
        warnings.simplefilter("ignore")
        return build_architecture(name).to("meta").eval()


def parameter_count(model: nn.Module) -> int:
    """Return the number of parameters.

    >>> parameter_count(on_meta("timm:resnet18"))
    11689512
    """
    return sum(parameter.numel() for parameter in model.parameters())
