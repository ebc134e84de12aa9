"""The page of effects is what the checked-in results make it, and these are all there."""

from __future__ import annotations

from benchmarks.effect.__main__ import RESULTS
from benchmarks.effect.experiment import MNIST, QUICK, runs
from benchmarks.effect.page import page
from benchmarks.effect.results import read
from tests.docs.pages import DOCS


def test_the_page_is_made_from_the_results() -> None:
    text = (DOCS / "effect.md").read_text()
    assert text == page(read(RESULTS)), "run python -m benchmarks.effect --page docs/effect.md"


def test_every_network_and_filter_was_run() -> None:
    # Seeds beyond the first of MNIST are half an hour or more of training; the page says how many there are.
    assert {*runs(MNIST, 3), *runs(QUICK, 3)} <= set(read(RESULTS))


def test_the_picture_is_small() -> None:
    assert (DOCS / "img" / "effect.png").stat().st_size < 100_000
