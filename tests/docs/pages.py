"""The repository's Markdown, cut into fenced blocks."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
DOCS = ROOT / "docs"
PAGES = [README, *sorted(DOCS.rglob("*.md"))]
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """One fenced block: its language and what is in it."""

    language: str
    text: str


def blocks(page: Path, *languages: str) -> list[Block]:
    """The blocks of a page in the given languages, in order."""
    found = [Block(language, text) for language, text in _FENCE.findall(page.read_text())]
    return [block for block in found if block.language in languages]


def name(page: Path) -> str:
    """A page's name in a test's id."""
    return page.relative_to(ROOT).as_posix()
