"""Pictures of every kind that people have, as a network takes them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from blurify.errors import ArgumentError, FileError
from blurify.measure.folder import Pictures, Preprocessing, check_normalisation, find_pictures, read_picture


def saved(folder: Path, name: str, image: Image.Image, **options: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    image.save(folder / name, **options)
    return folder / name


def ramp(width: int = 40, height: int = 30) -> Image.Image:
    """Dark at the left, and red in the upper left corner."""
    image = Image.new("RGB", (width, height))
    image.putdata([(6 * (i % width), 6 * (i % width), 6 * (i % width)) for i in range(width * height)])
    image.paste((255, 0, 0), (0, 0, 5, 5))
    return image


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr"])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_mode(mode: str, channels: int, tmp_path: Path) -> None:
    suffix = {"CMYK": "jpg", "YCbCr": "jpg"}.get(mode, "png")
    picture = read_picture(saved(tmp_path, f"a.{suffix}", ramp().convert(mode)), channels, 24)
    assert picture.shape == (channels, 24, 24)
    assert picture.dtype == torch.uint8
    assert picture[:, :, -4:].float().mean() > picture[:, :, 8:12].float().mean() + 50


def test_sixteen_bits_keep_their_range(tmp_path: Path) -> None:
    path = saved(tmp_path, "deep.png", Image.new("I;16", (20, 20), 257 * 100))
    assert read_picture(path, 3, 10).unique().tolist() == [100]


def test_a_turned_picture_is_turned_back(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter, clockwise
    turned = ramp(30, 30).rotate(90)
    expected = read_picture(saved(tmp_path, "upright.png", ramp(30, 30)), 3, 30)
    assert torch.equal(read_picture(saved(tmp_path, "turned.png", turned, exif=exif), 3, 30), expected)


def test_the_middle_of_the_resized_picture_is_taken(tmp_path: Path) -> None:
    image = Image.new("RGB", (60, 20))
    image.paste((0, 255, 0), (20, 0, 40, 20))
    for side in (20, 10, 40):
        picture = read_picture(saved(tmp_path, "wide.png", image), 3, side)
        inner = picture[:, :, 2:-2]
        assert inner[1].min() == 255, side
        assert inner[0].max() == 0, side
    assert torch.equal(
        read_picture(saved(tmp_path, "same.png", ramp(24, 24)), 3, 24), read_picture(tmp_path / "same.png", 3, 24)
    )


@pytest.mark.parametrize("content", [b"", b"no image", b"\x89PNG\r\n\x1a\n"])
def test_what_is_no_picture_is_named(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(content)
    with pytest.raises(FileError, match=r"broken\.png cannot be read: "):
        read_picture(tmp_path / "broken.png", 3, 8)


def test_a_truncated_picture_is_named_and_the_others_are_read(tmp_path: Path) -> None:
    whole = saved(tmp_path, "b.png", ramp(200, 200))
    (tmp_path / "a.png").write_bytes(whole.read_bytes()[:-300])
    pictures = Pictures(find_pictures(tmp_path, labelled=False).paths, Preprocessing(8, (0.5,) * 3, (0.25,) * 3))
    assert len(pictures) == 2
    number, reason = pictures[0]
    assert number == 0
    assert isinstance(reason, str)
    assert "a.png cannot be read: " in reason
    expected = (read_picture(whole, 3, 8) / 255 - 0.5) / 0.25
    assert pictures[1][0] == 1
    torch.testing.assert_close(pictures[1][1], expected)


def test_subfolders_are_classes_in_alphabetical_order(tmp_path: Path) -> None:
    for name in ("dog", "cat", "empty"):
        saved(tmp_path / name / "deeper", f"{name}.JPG", ramp())
    (tmp_path / "empty" / "deeper" / "empty.JPG").unlink()
    (tmp_path / "dog" / "notes.txt").write_text("no image")
    folder = find_pictures(tmp_path, labelled=True)
    assert [path.name for path in folder.paths] == ["cat.JPG", "dog.JPG"]
    assert folder.labels == (0, 1)
    assert folder.classes == ("cat", "dog", "empty")
    assert find_pictures(tmp_path, labelled=False).labels is None


def test_folders_without_pictures_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="nowhere is not a folder; give one that holds images"):
        find_pictures(tmp_path / "nowhere", labelled=False)
    with pytest.raises(FileError, match="There are no images in"):
        find_pictures(tmp_path, labelled=False)
    saved(tmp_path, "loose.png", ramp())
    with pytest.raises(FileError, match=r"loose\.png lies in no subfolder, so it has no class"):
        find_pictures(tmp_path, labelled=True)


def test_numbers_that_suit_no_picture_are_refused() -> None:
    check_normalisation((0.5,), (0.5,), 1)
    for mean, std, channels, message in (
        ((0.5,) * 4, (0.5,) * 4, 4, "pictures have 1 or 3 channels, and the model takes 4"),
        ((0.5,), (0.5,) * 3, 3, "mean must have one number for each of 3 channels, got 1"),
        ((0.5,) * 3, (0.5, 0.0, 1.0), 3, "std must be above 0, got 0.0"),
        ((0.5,) * 3, (0.5, float("nan"), 1.0), 3, "std must be finite numbers, got nan"),
        ((float("inf"),), (0.5,), 1, "mean must be finite numbers, got inf"),
    ):
        with pytest.raises(ArgumentError, match=message):
            check_normalisation(mean, std, channels)
