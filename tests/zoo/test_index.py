"""The tables, and the page in a real browser."""

from __future__ import annotations

import csv
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from blurify.zoo import index
from blurify.zoo.settings import Record

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
RECORDS: list[Record] = [
    {
        "model": "timm:a",
        "status": "converted",
        "sites": {"rewrite": 7, "keep": 1},
        "seconds": 9.5,
        "files": {},
        "parameters": 12_000,
        "macs": [10**9, 2 * 10**9],
        "attempt": 1,
    },
    {"model": "timm:b", "status": "failed", "kind": "error", "error": '<b> "x", y', "seconds": 10.25, "attempt": 2},
    {"model": "timm:c", "status": "kept", "sites": {"rewrite": 0, "keep": 1}, "reason": "nothing to do", "files": {}},
]


def test_csv() -> None:
    rows = list(csv.DictReader(index.as_csv(RECORDS).splitlines()))
    assert [row["model"] for row in rows] == ["timm:a", "timm:b", "timm:c"]
    assert (rows[0]["gmac_before"], rows[0]["gmac_after"], rows[0]["parameters"]) == ("1.0", "2.0", "12000")
    assert rows[1]["reason"] == '<b> "x", y'


def test_the_page_needs_nothing_else_and_runs_nothing_of_a_name() -> None:
    page = index.as_html(RECORDS, "<i>zoo")
    assert "http" not in page
    assert "&lt;b&gt; &#34;x&#34;, y" in page
    assert "<i>" not in page


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="needs Chromium")
@pytest.mark.parametrize(
    ("column", "order"), [("seconds", "abc"), ("status", "abc"), ("rewritten", "cab"), ("", "abc")]
)
def test_sorts_in_a_browser(tmp_path: Path, column: str, order: str) -> None:
    page = tmp_path / "index.html"
    records = RECORDS if column else RECORDS[::-1]
    page.write_text(index.as_html(records, "zoo"))
    done = subprocess.run(
        [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom", f"file://{page}#{column}"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    body = done.stdout.partition("<tbody>")[2].partition("</tbody>")[0]
    found = "".join(re.findall(r"timm:(\w)</td>", body))
    assert found == (order if column else order[::-1])
