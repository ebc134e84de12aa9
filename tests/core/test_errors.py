"""What is asked of any exception: what led to it, and its text in one line."""

from __future__ import annotations

import pytest

from blurify.errors import causes, one_line


def test_causes_of_an_error_that_is_its_own_cause_end() -> None:
    error = RuntimeError("again")
    error.__cause__ = error
    assert list(causes(error)) == [error]


def test_causes_that_form_a_ring_end() -> None:
    first, second, third = RuntimeError(), OSError(), ValueError()
    first.__cause__, second.__context__, third.__cause__ = second, third, first
    assert list(causes(first)) == [first, second, third]


@pytest.mark.parametrize(
    ("error", "line"),
    [(ValueError("a\n  b.\n"), "a b"), (KeyError(), "KeyError"), (OSError("..."), "OSError"), (TypeError("x:"), "x")],
)
def test_the_text_of_an_error_is_one_line(error: Exception, line: str) -> None:
    assert one_line(error) == line
    assert one_line(error, 1) in (line[:1], type(error).__name__)
