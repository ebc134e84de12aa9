"""Accuracy, mIoU and PSNR as torchmetrics has them, which gives means over a batch and not one number an image."""

from __future__ import annotations

import pytest
import torch

from blurify.cli.figures import scores_of
from blurify.measure.dense import mean_iou, psnr

functional = pytest.importorskip("torchmetrics.functional")


def test_accuracy() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(200, 12), torch.randint(12, (200,))
    scores = scores_of({"answers": torch.zeros(200, 1, 2), "middle": logits.topk(5).indices}, labels)
    for name, top_k in (("accuracy", 1), ("top-5 accuracy", 5)):
        expected = functional.classification.multiclass_accuracy(
            logits, labels, num_classes=12, average="micro", top_k=top_k
        )
        assert float(scores[name].mean()) == pytest.approx(float(expected), abs=1e-6)


@pytest.mark.parametrize("span", [1.0, 3.0])
def test_peak_signal_to_noise(span: float) -> None:
    torch.manual_seed(0)
    first, second = span * torch.rand(2, 4, 3, 8, 8)
    expected = functional.image.peak_signal_noise_ratio(
        first, second, data_range=(0.0, span), dim=(1, 2, 3), reduction="none"
    )
    found = psnr(list(zip(first, second, strict=True)), span)
    assert torch.allclose(found.float(), expected, atol=1e-4)


def test_mean_intersection_over_union() -> None:
    torch.manual_seed(0)
    first, second = torch.randn(5, 3, 16, 16), torch.randn(5, 3, 16, 16)
    found = mean_iou(list(zip(first, second, strict=True)))
    for one, other, score in zip(first, second, found, strict=True):
        expected = functional.classification.multiclass_jaccard_index(
            one[None], other.argmax(0)[None], num_classes=3, average="macro"
        )
        assert float(score) == pytest.approx(float(expected), abs=1e-6)
