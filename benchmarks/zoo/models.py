"""Every architecture of timm and torchvision by name: built without trained weights, and the inputs it takes."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import timm
import torch
import torchvision
from torch import Tensor, nn

from blurify.tracing.inputs import Inputs, random_batch

Shape = tuple[int, ...]

FRAMES = 16
SIDES = (64, 96, 128, 192, 224, 256)
ODD_SIDES = ((67, 83), (99, 115), (131, 163), (225, 257), (307, 331))
# Optical flow compares two pictures.
PICTURES = {"optical_flow": 2}
OWN_SHAPES = {"video": (3, FRAMES, 224, 224), "detection": (3, 320, 320)}


def all_names() -> list[str]:
    """`library:architecture` of everything that the two libraries list."""
    names = [f"timm:{name}" for name in timm.list_models()]
    return names + [f"torchvision:{name}" for name in torchvision.models.list_models()]


def family(name: str) -> str:
    """The module of the library that defines the architecture."""
    library, _, architecture = name.partition(":")
    if library == "timm":
        return _timm_families()[architecture]
    return ".".join(_builder(architecture).__module__.split(".")[2:])


@cache
def _timm_families() -> dict[str, str]:
    return {name: module for module in timm.list_modules() for name in timm.list_models(module=module)}


def task(name: str) -> str:
    """What the architecture is for, as torchvision groups them."""
    library, _, architecture = name.partition(":")
    groups = ("detection", "segmentation", "video", "optical_flow", "quantization")
    parts = _builder(architecture).__module__.split(".") if library == "torchvision" else []
    return next((group for group in groups if group in parts), "classification")


def _builder(architecture: str) -> Callable[..., nn.Module]:
    return torchvision.models.get_model_builder(architecture)


def make(name: str, device: str = "meta", **sizes: Any) -> nn.Module:
    """Build the architecture in eval mode with seeded random weights; of a detector, the backbone.

    `sizes` go to its builder, to make a smaller network of the same kind.
    """
    library, _, architecture = name.partition(":")
    build = timm.create_model if library == "timm" else _torchvision
    # torchvision's RegNets compute their widths with tensors, which needs storage.
    where = "cpu" if library == "torchvision" and architecture.startswith("regnet_") else device
    torch.manual_seed(0)
    with warnings.catch_warnings(), torch.device(where):
        warnings.simplefilter("ignore")
        model = build(architecture, **sizes).to(device)
    return (model.backbone if task(name) == "detection" else model).eval()


def _torchvision(architecture: str, **sizes: Any) -> nn.Module:
    builder = _builder(architecture)
    known = inspect.signature(builder).parameters
    # Without this, detectors and segmenters fetch the weights of their backbones.
    options: dict[str, Any] = {"weights_backbone": None} if "weights_backbone" in known else {}
    if architecture in ("googlenet", "inception_v3"):
        options["init_weights"] = False
    return builder(weights=None, **options, **sizes)


def own_shape(name: str, model: nn.Module) -> Shape:
    """Channels and sizes that the model is made for."""
    config = getattr(model, "pretrained_cfg", None) or {}
    return OWN_SHAPES.get(task(name)) or tuple(config.get("input_size", (3, 224, 224)))


def inputs_of(name: str, model: nn.Module, shape: Shape, batch: int = 1) -> Inputs:
    """A batch of the given channels and sizes for every argument of the model."""
    like = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
    return Inputs(tuple(random_batch((batch, *shape), like) for _ in range(PICTURES.get(task(name), 1))))


def given_inputs(name: str, model: nn.Module) -> Inputs | None:
    """What a user must pass because the model takes something else than one picture; None for the others."""
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
    """Whether the model takes pictures of this shape."""
    try:
        with torch.no_grad():
            model(*inputs_of(name, model, shape).args)
    except Exception:
        return False
    return True


def parameter_count(model: nn.Module) -> int:
    """The number of parameters."""
    return sum(parameter.numel() for parameter in model.parameters())


@torch.no_grad()
def randomize(name: str, model: nn.Module, shape: Shape) -> nn.Module:
    """Give what starts as a constant values that show whether it is applied in place, and let every signal survive."""
    generator = torch.Generator().manual_seed(0)
    for key, parameter in model.named_parameters():
        if parameter.is_floating_point() and bool((parameter == parameter.flatten()[:1]).all()):
            low, high = _spread(key, parameter)
            parameter.uniform_(low, high, generator=generator)
    # Where maps end in one position, a single picture has no variance, and norms magnify its rounding.
    with following_norms(model, generator):
        model(*inputs_of(name, model, shape, batch=4).args)
    return model


def _spread(key: str, parameter: Tensor) -> tuple[float, float]:
    if key.endswith("bias"):
        return -0.2, 0.2
    if parameter.numel() > max(parameter.shape, default=1):
        # A head or an embedding of zeros.
        return -0.05, 0.05
    # A scale of a residual branch starts near 0, which would hide the branch; that of a norm starts at 1.
    return (0.7, 1.3) if float(parameter.flatten()[0]) == 1 else (0.1, 0.3)


@contextmanager
def following_norms(model: nn.Module, generator: torch.Generator) -> Iterator[None]:
    """Let every batch-norm take statistics from what it is fed, disturbed: untrained ones let deep signals vanish."""

    def follow(module: nn.modules.batchnorm._BatchNorm, args: tuple[Tensor, ...]) -> None:
        x = args[0]
        spread = torch.rand(2, module.num_features, generator=generator).to(x) * 0.6 + 0.7
        axes = [0, *range(2, x.dim())]
        module.running_mean.copy_(x.mean(axes) * spread[0])
        module.running_var.copy_((x.var(axes, unbiased=False) + 1e-3) * spread[1])

    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
    hooks = [norm.register_forward_pre_hook(follow) for norm in norms]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
