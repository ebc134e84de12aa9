"""What a report shows of the shipped classifier, which was trained, and of a network that is no classifier."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from blurify import antialias
from blurify.demo import load_demo
from blurify.errors import NoEffectWarning
from blurify.report.contents import Shown, show


def test_of_a_classifier() -> None:
    model, pictures, labels = load_demo()
    wide = F.pad(pictures[:3], (4,) * 4)
    tables, drawn = show(model, antialias(model), Shown(wide, 40, labels[:3]))
    assert [row[0] for row in tables[0].rows] == [
        "maxpool",
        *(f"layer{i}.{c}" for i in (1, 2) for c in ("conv1", "downsample.0")),
    ]
    for row in tables[0].rows:
        assert float(row[5]) < float(row[4]) / 2, row[0]
    assert len(drawn) == 6
    assert [picture.content[:3] == b"GIF" for picture in drawn] == [False] * 5 + [True]


def test_of_a_network_that_gives_maps() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.MaxPool2d(2)).eval()
    tables, drawn = show(model, antialias(model), Shown(torch.rand(2, 3, 20, 20), 16))
    assert (len(tables), len(drawn)) == (1, 3)
    with pytest.warns(NoEffectWarning):
        unchanged = antialias(model, exclude=["*"])
    assert show(model, unchanged, Shown(torch.rand(2, 3, 20, 20), 16)) == ((), ())
