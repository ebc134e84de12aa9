"""How plots become files, and what happens without matplotlib."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from blurify.drawing.canvas import encode, folded_name, heading, new_figure, require_matplotlib, save
from blurify.errors import ArgumentError, BlurifyError, FileError

RED, BLUE = Image.new("RGB", (4, 4), "red"), Image.new("RGB", (4, 4), "blue")


def test_the_suffix_says_the_kind(tmp_path: Path) -> None:
    figure = new_figure(1, 0.5)
    save(figure, tmp_path / "a.png")
    save(figure, tmp_path / "a.SVG")
    save([RED, BLUE], tmp_path / "a.gif")
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.size == (110, 55)
    assert (tmp_path / "a.SVG").read_text().startswith("<?xml")
    with Image.open(tmp_path / "a.gif") as movie:
        assert (movie.n_frames, movie.size) == (2, (4, 4))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.SVG", "a.gif", "a.png"]


@pytest.mark.parametrize("name", ["a.gif", "a.jpg", "a"])
def test_a_figure_has_no_other_kind(name: str, tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=r"does not say how the plot is to be written; .* in \.png or \.svg"):
        save(new_figure(1, 1), tmp_path / name)
    with pytest.raises(ArgumentError, match=r"give it a name in \.gif"):
        save([RED], tmp_path / "a.png")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="cannot be written to"):
        save(new_figure(1, 1), tmp_path / "no" / "a.png")


def test_no_frames_no_animation(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="needs frames"):
        save([], tmp_path / "a.gif")


@pytest.mark.parametrize("kind", ["png", "svg"])
def test_the_same_values_give_the_same_bytes(kind: str) -> None:
    def drawn() -> bytes:
        figure = new_figure(3, 2)
        heading(figure, "title", "caption")
        figure.subplots().plot([0, 1], [1, 0])
        return encode(figure, kind)

    assert drawn() == drawn()


def test_animations_keep_their_colours() -> None:
    movie = Image.open(io.BytesIO(encode([RED, BLUE, RED], "gif")))
    movie.seek(1)
    red, green, blue = movie.convert("RGB").getpixel((1, 1))
    assert (red < 80, green < 80, blue > 180) == (True, True, True)


@pytest.mark.parametrize(
    ("name", "width", "lines", "shown"),
    [
        ("maxpool", 12, 3, "maxpool"),
        ("layer2.0.downsample.0", 12, 3, "layer2.0.\ndownsample.0"),
        ("tabby cat", 12, 2, "tabby cat"),
        ("a b$c", 12, 2, r"a b\$c"),
        ("one two three four five", 6, 3, "one\n…four\nfive"),
        ("abcdefghij", 4, 3, "abcd\nefgh\nij"),
        ("abcdefghijklmnopq", 4, 2, "abcd\n…q"),
    ],
)
def test_long_names_are_folded(name: str, width: int, lines: int, shown: str) -> None:
    assert folded_name(name, width, lines) == shown


def test_says_what_to_install_without_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    for call in (require_matplotlib, lambda: new_figure(1, 1)):
        with pytest.raises(BlurifyError, match=r"pip install 'blurify\[pictures\]'"):
            call()


def test_matplotlib_is_imported_only_to_draw() -> None:
    modules = ", ".join(f"blurify.drawing.{name}" for name in ("bars", "curves", "filters", "heat", "sliding", "toy"))
    found = "print('matplotlib' in sys.modules, 'matplotlib.pyplot' in sys.modules); "
    code = f"import sys, blurify.demo, {modules}; {found}blurify.drawing.toy.toy_signal(); {found}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False", "True", "False"]
