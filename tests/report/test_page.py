"""The report's page: all that it was given is there, as text, and nothing is asked for from elsewhere."""

from __future__ import annotations

import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest

from blurify.drawing.canvas import encode
from blurify.drawing.filters import filter_gallery
from blurify.errors import ArgumentError, FileError
from blurify.report.page import Content, Picture, Table, render, write_report

HOSTILE = '<script>console.error("x")</script><img src="https://example.org/a.png" onerror=alert(1)>"\'&amp;{{ 7 * 7 }}'
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)


def content() -> Content:
    wide = Table("Where it still aliases", ("site", *(f"column {i}" for i in range(12))), (("layer", *["0.123"] * 12),))
    tables = (wide, Table(HOSTILE, (HOSTILE, "b"), ((HOSTILE, "1"), ("second", "2"))))
    figure = filter_gallery()
    pictures = (
        Picture("Filters", "Taps and responses.", encode(figure, "png")),
        Picture(HOSTILE, HOSTILE, encode(figure, "svg")),
    )
    return Content(HOSTILE, f"blurify measure {'x' * 300}", (HOSTILE,), tables, pictures, "site  " + "y" * 300)


class Page(HTMLParser):
    """What there is on a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.cells: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_data(self, data: str) -> None:
        if self.cells and data.strip():
            self.cells[-1] += data

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def test_nothing_is_asked_for_from_elsewhere() -> None:
    page = Page(render(content()))
    addresses = [a[key] or "" for _, a in page.tags for key in ("src", "href", "srcset", "action") if key in a]
    assert len(addresses) == 2
    assert all(address.startswith("data:image/") for address in addresses)
    assert {tag for tag, _ in page.tags}.isdisjoint({"script", "link", "iframe", "object", "base"})
    assert "url(" not in render(content())


def test_all_is_there_as_text() -> None:
    page = Page(render(content()))
    assert len(page.named("table")) == 2
    assert page.cells[:2] == ["site", "column 0"]
    assert HOSTILE in page.cells
    assert [image["alt"] for image in page.named("img")] == ["Taps and responses.", HOSTILE]
    assert {header["scope"] for header in page.named("th")} == {"col", "row"}
    assert page.named("html") == [{"lang": "en"}]
    assert len(page.named("h1")) == 1


def test_the_file_is_whole_or_not_there(tmp_path: Path) -> None:
    write_report(tmp_path / "out.html", content())
    assert (tmp_path / "out.html").read_text() == render(content())
    with pytest.raises(FileError, match="cannot be written to"):
        write_report(tmp_path / "no" / "out.html", content())


def test_what_does_not_go_together_is_refused() -> None:
    with pytest.raises(ArgumentError, match="A row of the table 'T' has 1 cells and its header 2"):
        Table("T", ("a", "b"), (("1",),))
    with pytest.raises(ArgumentError, match="plot 'P' is no PNG, SVG or GIF; it begins b'text'"):
        Picture("P", "", b"text")


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine; install it to open the page")
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_in_a_browser_of_a_phone_s_width(scheme: str, tmp_path: Path) -> None:
    api = pytest.importorskip("playwright.sync_api")
    write_report(tmp_path / "out.html", content())
    with api.sync_playwright() as playwright:
        # No sandbox: it needs rights that containers do not give.
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 390, "height": 844}, color_scheme=scheme)
        said: list[str] = []
        asked: list[str] = []
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto((tmp_path / "out.html").as_uri())
        assert page.locator("table").count() == 2
        assert page.locator("td", has_text="0.123").count() == 12
        assert page.evaluate("[...document.images].every(image => image.complete && image.naturalWidth > 0)")
        assert page.evaluate("document.documentElement.scrollWidth") == 390
        # What is wider scrolls by itself.
        assert page.evaluate("[...document.querySelectorAll('.wide')].some(e => e.scrollWidth > e.clientWidth)")
        browser.close()
    assert said == []
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
