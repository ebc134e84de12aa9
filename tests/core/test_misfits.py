"""Plans that do not suit the model they are applied to: refused before anything is edited."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blurify import Plan, antialias, plan
from blurify.errors import PlanError
from blurify.layers import BlurPool2d
from blurify.rewriting.losses import apply_traced
from blurify.sites import Action
from blurify.tracing import trace
from tests.conftest import run


class Net(nn.Module):
    """One site of every kind of landing, with a branch, a join and a blur."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.conv = nn.Conv2d(4, 4, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.act = nn.ReLU()
        self.side = nn.Conv2d(4, 4, 1, stride=2)
        self.mix = nn.Conv2d(4, 4, 3, padding=1)
        self.pool = nn.MaxPool2d(2)
        self.after = nn.ReLU()
        self.blur = BlurPool2d(4)
        self.pair = nn.MaxPool2d(2, return_indices=True)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.stem(x)
        x = self.act(self.norm(self.conv(x))) + self.side(x)
        x = self.after(self.pool(self.mix(x)))
        x = self.blur(x[..., ::2, ::2])
        return self.pair(F.interpolate(x, scale_factor=0.5, mode="bilinear", antialias=True))


NET = Net().eval()
MADE = plan(NET, 3)


def _changed(site: str, **changes: Any) -> Plan:
    assert site in {decision.site for decision in MADE.decisions}
    return Plan(tuple(replace(d, **changes) if d.site == site else d for d in MADE.decisions))


ELSEWHERE = "where a blur would not be of that site alone; plan this model again."
REWRITE = {"action": Action.REWRITE, "filt_size": (3, 3), "pad_type": "reflect", "reason": None}
CASES = [
    *(("conv", {"landing": place}, ELSEWHERE) for place in ("x", "stem", "side", "add", "mix", "output", "pool")),
    *(("side", {"landing": place}, ELSEWHERE) for place in ("conv", "act", "add", "output")),
    *(("pool", {"landing": place}, ELSEWHERE) for place in ("mix", "after", "blur", "conv")),
    *(("getitem", {"landing": place}, ELSEWHERE) for place in ("getitem", "blur", "pool", "x", "output", "pair")),
    ("blur", {**REWRITE, "landing": "blur"}, "which cannot be: already antialiased."),
    ("interpolate", {**REWRITE, "landing": "interpolate"}, "which cannot be: already antialiased."),
    ("pair", {**REWRITE, "landing": "pair"}, "which cannot be: gives maxima and indices as a pair "),
    ("conv", {"stride": (4, 4)}, "as of another stride than its 2x2 in this model."),
    ("conv", {"stride": (1, 2), "filt_size": (1, 3)}, "as of another stride than its 2x2 in this model."),
    ("conv", {"stride": (2,), "filt_size": (3,)}, "as of another stride than its 2x2 in this model."),
    ("pool", {"stride": (2,) * 3, "filt_size": (3,) * 3}, "as of another stride than its 2x2 in this model."),
]


@pytest.mark.parametrize(("site", "changes", "message"), CASES)
def test_refused_before_anything_is_edited(site: str, changes: dict[str, Any], message: str) -> None:
    traced = trace(NET)
    before = [str(graph) for graph in traced.graphs], [name for name, _ in traced.named_modules()]
    with pytest.raises(PlanError) as refusal:
        apply_traced(_changed(site, **changes), traced, inplace=True)
    assert message in str(refusal.value)
    assert repr(site) in str(refusal.value)
    assert str(refusal.value).endswith(".")
    assert ([str(graph) for graph in traced.graphs], [name for name, _ in traced.named_modules()]) == before


def test_the_plan_itself_applies() -> None:
    x = torch.randn(1, 3, 64, 64)
    assert [d.landing for d in MADE.rewritten] == ["act", "side", "pool", "after"]
    assert torch.equal(run(MADE.apply(NET), x), run(antialias(NET, 3), x))


@pytest.mark.parametrize("place", ["conv", "norm", "act"])
def test_anywhere_on_the_way_of_a_conv_will_do(place: str) -> None:
    x = torch.randn(1, 3, 64, 64)
    taps_of_one = {"filt_size": (1, 1), "landing": place}
    only = Plan(tuple(d for d in _changed("conv", **taps_of_one).decisions if d.site == "conv"))
    torch.testing.assert_close(run(only.apply(NET), x), run(NET, x))
