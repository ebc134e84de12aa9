"""What torchvision's weights say of images."""

from __future__ import annotations

import pytest

from blurify.files.transforms import torchvision_preprocessing


@pytest.mark.parametrize(
    ("arch", "size", "interpolation"),
    [
        ("torchvision:resnet18", 224, "bilinear"),
        ("torchvision:inception_v3?init_weights=False", 299, "bilinear"),
        ("torchvision:efficientnet_b4", 380, "bicubic"),
    ],
)
def test_classifiers(arch: str, size: int, interpolation: str) -> None:
    found = torchvision_preprocessing(arch)
    assert found["input_size"] == (3, size, size)
    assert found["mean"] == pytest.approx((0.485, 0.456, 0.406))
    assert found["interpolation"] == interpolation


@pytest.mark.parametrize("arch", [None, "timm:resnet18", "torchvision:nothing", "torchvision:fcn_resnet50", "a.b:c"])
def test_what_says_nothing(arch: str | None) -> None:
    assert torchvision_preprocessing(arch) == {}
