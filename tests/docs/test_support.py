"""The support page is what the checked-in results of the zoo and the reasons make it."""

from __future__ import annotations

from benchmarks.zoo.__main__ import RESULTS
from benchmarks.zoo.ledger import STAGES, Ledger
from benchmarks.zoo.support import support
from blurify.sites import Reason
from tests.docs.pages import DOCS


def test_the_page_is_made_from_the_results() -> None:
    page = (DOCS / "support.md").read_text()
    assert page == support(Ledger(RESULTS)), "run python -m benchmarks.zoo --support docs/support.md"
    assert all(f"| `{reason}` | {reason.sentence} |" in page for reason in Reason)


def test_every_stage_was_run_on_every_architecture() -> None:
    entries = Ledger(RESULTS).entries
    assert len(entries) >= 1492
    missing = [(name, stage) for name, entry in entries.items() for stage in STAGES if stage not in entry]
    assert missing == []
