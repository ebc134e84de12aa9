"""Say which module, which line and why a trace failed."""

from __future__ import annotations

import traceback

from torch import nn

from blurify.errors import first_line
from blurify.tracing.questions import is_ours


def describe_failure(model: nn.Module, path: str, error: Exception) -> str:
    """Return which module, which line, and why."""
    theirs = [f for f in traceback.extract_tb(error.__traceback__) if not is_ours(f.filename)]
    at = f", at {theirs[-1].filename}:{theirs[-1].lineno} `{theirs[-1].line}`" if theirs else ""
    inside = f" in {path!r}" if path else ""
    return f"{type(model).__name__} cannot be traced{inside}{at}: {first_line(error)}"
