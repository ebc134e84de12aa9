"""What is asked of any exception: what led to it, and its text in one line."""

from __future__ import annotations

import pytest

from blurify.errors import causes, first_line, one_line, quoted


def test_causes_of_an_error_that_is_its_own_cause_end() -> None:
    error = RuntimeError("again")
    error.__cause__ = error
    assert list(causes(error)) == [error]


def test_causes_that_form_a_ring_end() -> None:
    first, second, third = RuntimeError(), OSError(), ValueError()
    first.__cause__, second.__context__, third.__cause__ = second, third, first
    assert list(causes(first)) == [first, second, third]
    assert list(causes(first, contexts=False)) == [first, second]


@pytest.mark.parametrize(
    ("error", "line"),
    [(ValueError("a\n  b.\n"), "a b"), (KeyError(), "KeyError"), (OSError("..."), "OSError"), (TypeError("x:"), "x")],
)
def test_the_text_of_an_error_is_one_line(error: Exception, line: str) -> None:
    assert one_line(error) == line
    assert one_line(error, 1) in (line[:1], type(error).__name__)


def test_the_first_line_of_an_error() -> None:
    assert first_line(RuntimeError("\n sizes differ.\nSee above.")) == "sizes differ"
    assert first_line(KeyError()) == "KeyError"


@pytest.mark.parametrize(
    ("value", "text"), [("é\n", r"'\xe9\n'"), (3, "3"), ("x" * 79, f"'{'x' * 75}...'"), (b"x" * 99, f"b'{'x' * 74}...")]
)
def test_a_value_is_quoted_shortly(value: object, text: str) -> None:
    assert quoted(value) == text
