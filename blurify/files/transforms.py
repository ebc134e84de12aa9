"""How pictures are to be prepared for a network of torchvision, as its published weights say."""

from __future__ import annotations

from typing import Any

from blurify.files.architecture import Architecture


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
