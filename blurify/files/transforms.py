"""How images are to be prepared for a network: as its own configuration (timm) or its weights (torchvision) say."""

from __future__ import annotations

from typing import Any

from torch import nn

from blurify.files.architecture import Architecture
from blurify.tracing.inputs import input_size


def preprocessing_of(model: nn.Module, arch: str | None) -> dict[str, Any]:
    """`input_size`, and where they are known `mean`, `std` and `interpolation`.

    >>> preprocessing_of(timm.create_model("resnet18"), "timm:resnet18")["mean"]
    (0.485, 0.456, 0.406)
    """
    config = getattr(model, "pretrained_cfg", None) or torchvision_preprocessing(arch)
    # timm's size is the model's own to say, with the channels that it was built for.
    own = config.get("input_size") if arch is not None and arch.startswith("torchvision:") else None
    known = {name: config[name] for name in ("mean", "std", "interpolation") if config.get(name)}
    return {"input_size": own or input_size(model)} | known


def torchvision_preprocessing(arch: str | None) -> dict[str, Any]:
    """`input_size`, `mean`, `std` and `interpolation`; empty where the architecture has no such weights.

    >>> torchvision_preprocessing("torchvision:inception_v3")["input_size"]
    (3, 299, 299)
    """
    if arch is None or not arch.startswith("torchvision:"):
        return {}
    from torchvision import models

    name = Architecture.parse(arch).name
    if name not in models.list_models():
        return {}
    weights = next(iter(models.get_model_weights(name)), None)
    transforms: Any = None if weights is None else weights.transforms()
    # Those of detection and segmentation cut nothing out.
    if not hasattr(transforms, "crop_size"):
        return {}
    side = transforms.crop_size[0]
    return {
        "input_size": (len(transforms.mean), side, side),
        "mean": tuple(transforms.mean),
        "std": tuple(transforms.std),
        "interpolation": transforms.interpolation.value,
    }
