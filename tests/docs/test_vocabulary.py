"""The pages use one plain word for each thing."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.docs.pages import DOCS, PAGES, name

# Each old word, and the one in its place.
WORDS = {
    "picture": "image",
    "pictures": "images",
    "anew": "again",
    "beside": "next to",
    "thereby": "therefore",
    "unlearnt": "not trained",
    "so that": "a sentence of its own",
    "likewise": "also",
    "told": "reported",
}
# Rewritten with the features that they describe.
LATER = [DOCS / f"{page}.md" for page in ("performance", "recover", "support", "notes/recovery")]
_CODE = re.compile(r"^```.*?^```$|`[^`]*`|\]\([^)]*\)|^:::.*?$", re.MULTILINE | re.DOTALL)


def old_words(text: str) -> list[str]:
    """Return the old words in a page's prose, with what to write instead."""
    prose = re.sub(r"\s+", " ", _CODE.sub(" ", text)).lower()
    return [f"{old}: write {new}" for old, new in WORDS.items() if re.search(rf"\b{old}\b", prose)]


@pytest.mark.parametrize("page", [page for page in PAGES if page not in LATER], ids=name)
def test_pages_use_plain_words(page: Path) -> None:
    assert old_words(page.read_text()) == []


def test_old_words_are_seen_in_prose_alone() -> None:
    assert old_words("Two\npictures, so\nthat") == ["pictures: write images", "so that: write a sentence of its own"]
    assert old_words("`--picture`, [plots](pictures.md)\n\n```sh\nls pictures\n```\n") == []
