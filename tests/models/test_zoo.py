"""What a plan says of every architecture is what the checked-in results say: `pytest -m zoo`, half an hour."""

from __future__ import annotations

import warnings

import pytest

from benchmarks.zoo import models
from benchmarks.zoo.__main__ import RESULTS
from benchmarks.zoo.ledger import Ledger
from benchmarks.zoo.stages import Subject, plan

ENTRIES = Ledger(RESULTS).entries
FAMILIES = sorted({f"{name.partition(':')[0]}:{entry['plan']['family']}" for name, entry in ENTRIES.items()})


@pytest.mark.zoo
@pytest.mark.parametrize("family", FAMILIES)
def test_plans_are_those_of_the_results(family: str) -> None:
    library, _, module = family.partition(":")
    known = set(models.all_names())
    members = {
        name: entry["plan"]["sites"]
        for name, entry in ENTRIES.items()
        if name in known and name.startswith(f"{library}:") and entry["plan"]["family"] == module
    }
    with warnings.catch_warnings():
        # What the libraries' own code warns of is none of our business.
        warnings.simplefilter("ignore")
        found = {name: plan(Subject(name))["sites"] for name in members}
    assert found == members
