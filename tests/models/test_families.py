"""One small network of every family of timm and torchvision through the stages of the zoo benchmark."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable, Iterator

import pytest
import timm
import torch
from torch import nn

from benchmarks.zoo import models
from benchmarks.zoo.__main__ import RESULTS
from benchmarks.zoo.ledger import Ledger
from benchmarks.zoo.stages import STAGES, Subject, run_stages
from tests.models.families import EVERYDAY, FAMILIES, LEFT_OUT, NOTHING_TO_REWRITE, Network

# Everything that can be asked for, so that transformers have their patch embedding rewritten.
OPTIONS = {"stem": True, "patch_embed": True}


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """A model made for another size than it is tried at first makes torch log what it raises."""
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(disabled)


class Small(Subject):
    """The small network of a family."""

    def __init__(self, family: str, network: Network) -> None:
        name = f"{family.partition(':')[0]}:{network.architecture}"
        super().__init__(name, network.shapes, network.sizes, OPTIONS)
        self.blocks = network.blocks

    def make(self, device: str) -> nn.Module:
        """Build the model, with so many of each row of alike blocks."""
        model = super().make(device)
        for row in list(model.modules()):
            if self.blocks and isinstance(row, nn.Sequential) and len(set(map(type, row))) == 1:
                del row[self.blocks :]
        return model


@pytest.mark.parametrize("family", [f if f in EVERYDAY else pytest.param(f, marks=pytest.mark.slow) for f in FAMILIES])
def test_family(family: str) -> None:
    network = FAMILIES[family]
    subject = Small(family, network)
    with warnings.catch_warnings():
        # What the libraries' own code warns of is none of our business.
        warnings.simplefilter("ignore")
        outcomes = dict(run_stages(subject, tuple(STAGES)))
    assert {stage: outcome for stage, outcome in outcomes.items() if not outcome["ok"]} == {}
    assert outcomes["plan"]["family"] == family.partition(":")[2]
    # Small as it is, it shows what the whole one does.
    assert outcomes["plan"]["sites"].keys() == decisions([family])
    skipped = {stage: outcome["skipped"] for stage, outcome in outcomes.items() if "skipped" in outcome}
    nothing = dict.fromkeys(("shapes", "identity"), "nothing is rewritten")
    assert skipped == (nothing if family in NOTHING_TO_REWRITE else {})
    if family not in NOTHING_TO_REWRITE:
        tried = ["x".join(map(str, shape)) for shape in network.shapes]
        assert outcomes["shapes"]["sizes"] == outcomes["identity"]["sizes"] == tried
        assert len(outcomes["identity"]["errors"]) == len(tried)
        # Of the dtype that held: rounding may be magnified in float32 by more layers than it may in float64.
        assert max(outcomes["identity"]["errors"]) <= {"float32": 1e-4, "float64": 1e-10}[outcomes["identity"]["dtype"]]


def decisions(families: Iterable[str]) -> set[str]:
    """Return every kind, action and reason that the recorded plans of the families' architectures show."""
    entries = Ledger(RESULTS).entries
    names = [f"{family.partition(':')[0]}:{FAMILIES[family].architecture}" for family in families]
    return {decision for name in names for decision in entries[name]["plan"]["sites"]}


def test_the_everyday_families_show_every_decision() -> None:
    assert FAMILIES.keys() >= EVERYDAY
    assert decisions(EVERYDAY) == decisions(FAMILIES)
    assert len(decisions(EVERYDAY)) >= 13


def test_the_test_above_can_fail() -> None:
    assert decisions(EVERYDAY - {"timm:coat"}) < decisions(FAMILIES)


def test_every_family_is_run_or_left_out_for_a_reason() -> None:
    known = {f"{name.partition(':')[0]}:{models.family(name)}" for name in models.all_names()}
    assert not FAMILIES.keys() & LEFT_OUT.keys()
    missing = known - FAMILIES.keys() - LEFT_OUT.keys()
    # A later timm may have more; the one that the table was made with has no other.
    assert not missing or timm.__version__ != "1.0.31", missing
    assert len(FAMILIES) >= 110
    assert torch.get_num_threads() == 1
