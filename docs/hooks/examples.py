"""Show the `>>>` examples of docstrings as code: in bare Markdown they would be quotations."""

from __future__ import annotations

import re
from typing import Any

import griffe

_DIRECTIVE = re.compile(r"\s*#\s*doctest:.*$")


def fenced(docstring: str) -> str:
    """Return the docstring with a fence around every paragraph that starts with `>>>`."""
    paragraphs = docstring.split("\n\n")
    return "\n\n".join(_fence(p) if p.lstrip().startswith(">>>") else p for p in paragraphs)


def _fence(paragraph: str) -> str:
    lines = [_DIRECTIVE.sub("", line) for line in paragraph.strip("\n").splitlines()]
    return "\n".join(["```pycon", *lines, "```"])


class FencedExamples(griffe.Extension):
    """Applies `fenced` to everything that mkdocstrings collects."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrite one object's docstring (called by griffe)."""
        if obj.docstring is not None:
            obj.docstring.value = fenced(obj.docstring.value)
