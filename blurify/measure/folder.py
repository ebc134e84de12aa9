"""Pictures as a network takes them: found in a folder or archives, read, turned upright, resized, cut, normalised."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset

from blurify.errors import ArgumentError, FileError, one_line
from blurify.measure.shards import Member, class_of, find_members

Source = Path | Member
SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})
# What timm, torchvision and the published networks normalise by, unless a model says otherwise.
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# Pillow's names of these; whatever else a model's configuration says is not what it was tested with.
INTERPOLATIONS = ("bilinear", "bicubic", "lanczos", "nearest", "box", "hamming")
# More than 8 bits a pixel.
DEEP_MODES = frozenset({"I", "I;16", "I;16B", "I;16L", "I;16N"})


@dataclass(frozen=True)
class Folder:
    """Pictures in order, and the class of each where that is told; `classes` where classes have names."""

    paths: tuple[Source, ...]
    labels: tuple[int, ...] | None
    classes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Preprocessing:
    """How an image is resized, the side of the square that is cut out, and what each channel is normalised by."""

    side: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str = "bilinear"


def find_pictures(source: Path, labelled: bool, table: Path | None = None) -> Folder:
    """List the images below a folder, or in tar archives.

    `source` is a folder of images, one tar archive (webdataset), or a folder of archives. `labelled` takes a folder's
    subfolders, in alphabetical order, for classes, and in archives the `.cls` beside each image. `table` is a CSV
    file of `path,class`, whose images alone are taken; a class is a number, or a name, and names count in
    alphabetical order.

    Raises:
        FileError: there are no images, or one has no class, or the table cannot be read.
    """
    if table is not None:
        return from_table(table, source)
    archives = [source] if source.is_file() and source.suffix == ".tar" else sorted(source.glob("*.tar"))
    if archives:
        pictures, holders = find_members(archives, SUFFIXES)
        if not pictures:
            raise FileError(f"There are no images in {source}; these are looked for: {' '.join(sorted(SUFFIXES))}.")
        return Folder(tuple(pictures), tuple(map(class_of, pictures, holders)) if labelled else None)
    if not source.is_dir():
        raise FileError(f"{source} is not a folder; give one that holds images, or a .tar of them.")
    paths = sorted(path for path in source.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    if not paths:
        raise FileError(f"There are no images in {source}; these are looked for: {' '.join(sorted(SUFFIXES))}.")
    return by_subfolder(source, paths) if labelled else Folder(tuple(paths), None)


def by_subfolder(folder: Path, paths: Sequence[Path]) -> Folder:
    """Return the images with the number of the subfolder that each is in."""
    loose = next((path for path in paths if path.parent == folder), None)
    if loose is not None:
        raise FileError(f"{loose} lies in no subfolder, so it has no class; give a folder with one subfolder a class.")
    classes = sorted(path.name for path in folder.iterdir() if path.is_dir())
    numbers = {name: number for number, name in enumerate(classes)}
    return Folder(tuple(paths), tuple(numbers[path.relative_to(folder).parts[0]] for path in paths), tuple(classes))


def from_table(table: Path, folder: Path) -> Folder:
    """Return the images that a CSV file lists, with their classes."""
    try:
        with table.open(newline="", encoding="utf-8") as file:
            rows = [row for row in csv.reader(file) if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise FileError(f"{table} cannot be read: {one_line(error)}.") from error
    wrong = next((number for number, row in enumerate(rows, 1) if len(row) != 2), None)
    if wrong is not None:
        raise FileError(f"Row {wrong} of {table} must be an image's path and its class, as in: cats/1.png,3")
    # The names of the columns may stand above.
    rows = rows[1:] if rows and Path(rows[0][0]).suffix.lower() not in SUFFIXES else rows
    if not rows:
        raise FileError(f"{table} lists no images; give rows of an image's path and its class.")
    paths, named = [folder / path for path, _ in rows], [name.strip() for _, name in rows]
    if all(name.isascii() and name.isdigit() for name in named):
        return Folder(tuple(paths), tuple(map(int, named)))
    classes = sorted(set(named))
    return Folder(tuple(paths), tuple(map(classes.index, named)), tuple(classes))


def read_picture(path: Source, channels: int, side: int, interpolation: str = "bilinear") -> Tensor:
    """Read an image upright, its shorter side resized to `side`, and its middle: `[channels, side, side]` uint8.

    Raises:
        FileError: it cannot be read to its end.
    """
    from PIL import Image, ImageOps

    resampling = Image.Resampling[interpolation.upper()]
    try:
        with Image.open(path.open() if isinstance(path, Member) else path) as opened:
            image = ImageOps.exif_transpose(opened)
            if image.mode in DEEP_MODES:
                image = image.point(lambda value: value / 257).convert("L")
            if "transparency" in image.info:
                image = image.convert("RGBA")
            image = image.convert("L" if channels == 1 else "RGB")
            scale = side / min(image.size)
            width, height = (max(side, int(length * scale)) for length in image.size)
            left, top = (width - side) // 2, (height - side) // 2
            image = image.resize((width, height), resampling)
            image = image.crop((left, top, left + side, top + side))
            pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
            return pixels.view(side, side, channels).permute(2, 0, 1)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise FileError(f"{path} cannot be read: {one_line(error)}.") from error


class Pictures(Dataset[tuple[int, Tensor | str]]):
    """Every image with its number, normalised; in the place of one that cannot be read, why."""

    def __init__(self, paths: Sequence[Source], preprocessing: Preprocessing) -> None:
        self.paths, self.preprocessing = paths, preprocessing

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[int, Tensor | str]:
        """Return the number, and `[C, side, side]` float32 or a sentence."""
        wanted = self.preprocessing
        try:
            picture = read_picture(self.paths[index], len(wanted.mean), wanted.side, wanted.interpolation)
        except FileError as error:
            return index, str(error)
        mean, std = torch.tensor(wanted.mean), torch.tensor(wanted.std)
        return index, (picture / 255 - mean[:, None, None]) / std[:, None, None]


def check_normalisation(mean: Sequence[float], std: Sequence[float], channels: int) -> None:
    """Refuse what does not suit the channels.

    Raises:
        ArgumentError: a count differs, a number is not finite, or a deviation is not above 0.
    """
    if channels not in (1, 3):
        raise ArgumentError(f"pictures have 1 or 3 channels, and the model takes {channels}.")
    for name, values in (("mean", mean), ("std", std)):
        if len(values) != channels:
            raise ArgumentError(f"{name} must have one number for each of {channels} channels, got {len(values)}.")
        wrong = next((value for value in values if not isfinite(value)), None)
        if wrong is not None:
            raise ArgumentError(f"{name} must be finite numbers, got {wrong}.")
    if min(std) <= 0:
        raise ArgumentError(f"std must be above 0, got {min(std)}.")
