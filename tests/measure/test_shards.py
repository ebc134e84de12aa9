"""Pictures in tar archives, and classes from tables."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest
import torch
from PIL import Image

from blurify.errors import FileError
from blurify.measure.folder import find_pictures, read_picture


def archive(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
        # What is no file is passed over.
        link = tarfile.TarInfo("link.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    return path


def png(grey: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (20, 20), grey).save(buffer, "PNG")
    return buffer.getvalue()


def test_shards_in_order(tmp_path: Path) -> None:
    archive(tmp_path / "b.tar", {"0.png": png(30), "0.cls": b"2"})
    archive(tmp_path / "a.tar", {"1.cls": b"7\n", "1.PNG": png(10), "2.png": png(20), "2.cls": b"0", "2.json": b"{}"})
    found = find_pictures(tmp_path, True)
    assert [str(path) for path in found.paths] == [
        f"{tmp_path}/{name}" for name in ("a.tar:1.PNG", "a.tar:2.png", "b.tar:0.png")
    ]
    assert (found.labels, found.classes) == ((7, 0, 2), ())
    assert [int(read_picture(path, 1, 10).unique()) for path in found.paths] == [10, 20, 30]
    assert find_pictures(tmp_path / "b.tar", False).labels is None


def test_archives_that_are_none_or_lack_a_class(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"c.tar:0.png has no class: a file of its name with the suffix .cls must hold"):
        find_pictures(archive(tmp_path / "c.tar", {"0.png": png(1)}), True)
    with pytest.raises(FileError, match=r"0.png has no class"):
        find_pictures(archive(tmp_path / "c.tar", {"0.png": png(1), "0.cls": b"cat"}), True)
    with pytest.raises(FileError, match="There are no images in"):
        find_pictures(archive(tmp_path / "c.tar", {"0.txt": b""}), False)
    (tmp_path / "d.tar").write_bytes(b"nothing of the kind" * 100)
    with pytest.raises(FileError, match=r"d.tar cannot be read as a tar archive: .*; give one that is not compressed"):
        find_pictures(tmp_path / "d.tar", False)


def test_a_truncated_picture_in_an_archive_is_named(tmp_path: Path) -> None:
    (found,) = find_pictures(archive(tmp_path / "a.tar", {"0.png": png(1)[:40]}), False).paths
    with pytest.raises(FileError, match=r"a.tar:0.png cannot be read"):
        read_picture(found, 3, 10)


def test_classes_by_name_in_a_table(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("path,class\ndog/1.png,dog\n\ncat/1.png, cat\n")
    found = find_pictures(tmp_path, False, tmp_path / "t.csv")
    assert found.paths == (tmp_path / "dog/1.png", tmp_path / "cat/1.png")
    assert (found.labels, found.classes) == ((1, 0), ("cat", "dog"))


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("a.png\n", "Row 1 of .*t.csv must be an image's path and its class, as in: cats/1.png,3"),
        ("a.png,1\nb.png,1,2\n", "Row 2 of .*t.csv must be"),
        ("path,class\n", "t.csv lists no images"),
        ("", "t.csv lists no images"),
        (None, "t.csv cannot be read"),
    ],
)
def test_tables_that_cannot_be_used(content: str | None, sentence: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "t.csv").write_text(content)
    with pytest.raises(FileError, match=sentence):
        find_pictures(tmp_path, False, tmp_path / "t.csv")


def test_interpolation_is_the_one_asked_for(tmp_path: Path) -> None:
    image = Image.effect_noise((64, 64), 80)
    image.save(tmp_path / "a.png")
    kinds = [read_picture(tmp_path / "a.png", 1, 20, kind) for kind in ("bilinear", "bicubic", "nearest")]
    expected = torch.tensor(list(image.resize((20, 20), Image.Resampling.BICUBIC).tobytes()), dtype=torch.uint8)
    assert torch.equal(kinds[1].flatten(), expected)
    assert len({picture.float().std().item() for picture in kinds}) == 3


def test_a_picture_is_no_folder_of_pictures(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(1))
    with pytest.raises(FileError, match=r"a\.png is not a folder; give one that holds images, or a \.tar of them"):
        find_pictures(tmp_path / "a.png", False)
