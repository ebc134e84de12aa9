"""Facts of each kind of site are told in one table, and nothing outside the rules asks for the kind itself."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import blurify
from blurify import Plan, plan
from blurify.errors import PlanError
from blurify.sites import TRAITS, Kind, Lands, Reason, Site

HOME = Path(blurify.__file__).parent
# The core, without the rules; `plan_json` and `decide` make kinds, and ask for that of what no rule knows.
CORE = ("api.py", "planning", "rewriting", "optimizing", "verifying")
ASKED = {"Kind.BLUR", "Kind.OPAQUE"}


def compared_kinds(text: str) -> Iterator[str]:
    """Yield the kinds that a module's comparisons name."""
    for node in ast.walk(ast.parse(text)):
        named = ast.walk(node) if isinstance(node, ast.Compare) else ()
        yield from (text for part in named if (text := ast.unparse(part)).startswith("Kind.") and "(" not in text)


def test_every_kind_has_traits() -> None:
    assert TRAITS.keys() == set(Kind)


@pytest.mark.parametrize("folder", CORE)
def test_the_core_does_not_ask_for_kinds(folder: str) -> None:
    files = [HOME / folder] if folder.endswith(".py") else [*(HOME / folder).rglob("*.py")]
    asked = {kind for file in files for kind in compared_kinds(file.read_text())}
    assert files
    assert asked <= ASKED


def test_a_comparison_is_seen() -> None:
    assert list(compared_kinds("x = site.kind in (Kind.MAX, 1)")) == ["Kind.MAX"]


def test_what_is_blurred_further_on_is_blurred_behind_weights() -> None:
    """The proof of shapes takes a map's channels from the landing for these alone."""
    assert [kind for kind, traits in TRAITS.items() if traits.lands is Lands.FURTHER] == [Kind.CONV]
    assert Site(Kind.CONV, (3, 3), (4, 4), (1, 1), (1, 1)).dense_stride == (2, 2)
    assert Site(Kind.MAX, (3, 3), (4, 4), (1, 1), (1, 1)).dense_stride == (1, 1)


class Channels(nn.Module):
    """Resizes, or pools, a map's channels: the last dimension of a map moved there."""

    def __init__(self, shrink: object) -> None:
        super().__init__()
        self.conv, self.shrink = nn.Conv2d(3, 8, 3), shrink

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x).flatten(2).transpose(1, 2)
        return self.shrink(x)  # type: ignore[operator, no-any-return]


@pytest.mark.parametrize(
    "shrink",
    [
        lambda x: F.interpolate(x, scale_factor=0.5),
        lambda x: F.interpolate(x, size=4, mode="linear"),
        lambda x: F.max_pool1d(x, 2),
        lambda x: F.avg_pool1d(x, 2),
    ],
)
def test_what_shrinks_channels_is_kept(shrink: object) -> None:
    """A blur across channels would mix what has nothing to do with each other."""
    made = plan(Channels(shrink), example_inputs=torch.zeros(1, 3, 10, 10))
    assert [(d.kind.traits.windows, d.reason) for d in made.decisions] == [(True, Reason.NOT_SPATIAL)]


def test_resizes_of_maps_are_rewritten() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Upsample(scale_factor=0.5))
    assert len(plan(model, example_inputs=torch.zeros(1, 3, 10, 10)).rewritten) == 1


def test_a_plan_cannot_rewrite_what_is_always_kept() -> None:
    made = plan(nn.Sequential(nn.MaxPool2d(2)))
    text = made.to_json().replace('"kind": "max"', '"kind": "unfold"')
    with pytest.raises(PlanError, match="a site of kind unfold, which is always kept"):
        Plan.from_json(text)


def test_a_plan_of_another_factor_is_refused() -> None:
    """An upsampling's own stride counts, not what a plan's text says of it."""
    model = nn.Sequential(nn.ConvTranspose2d(3, 3, 2, stride=2))
    made = plan(model, upsample=True)
    changed = Plan((replace(made.rewritten[0], stride=(4, 4)),))
    with pytest.raises(PlanError, match="as of another stride than its 2x2"):
        changed.apply(model)


def test_a_plan_is_read_without_torch() -> None:
    text = plan(nn.Sequential(nn.MaxPool2d(2))).to_json()
    loads = "import sys; from blurify.planning.plan import Plan"
    code = f"{loads}; print(Plan.from_json({text!r})); print('torch' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.splitlines()[-1] == "False"
