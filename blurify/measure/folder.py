"""The pictures of a folder, as a network takes them: read, turned upright, resized, cut, normalised."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset

from blurify.errors import ArgumentError, FileError

SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})
# What timm, torchvision and the published networks normalise by, unless a model says otherwise.
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# More than 8 bits a pixel.
DEEP_MODES = frozenset({"I", "I;16", "I;16B", "I;16L", "I;16N"})


@dataclass(frozen=True)
class Folder:
    """The pictures of a folder in order of their paths, and the class of each where its subfolder tells."""

    paths: tuple[Path, ...]
    labels: tuple[int, ...] | None
    classes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Preprocessing:
    """The side of the square that is cut out of a resized picture, and what each channel is normalised by."""

    side: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


def find_pictures(folder: Path, labelled: bool) -> Folder:
    """List the pictures below a folder; `labelled` takes its subfolders, in alphabetical order, for classes.

    Raises:
        FileError: it is no folder, there are no pictures in it, or, labelled, pictures lie outside of subfolders.
    """
    if not folder.is_dir():
        raise FileError(f"{folder} is not a folder; give one that holds pictures.")
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    if not paths:
        raise FileError(f"there are no pictures in {folder}; these are looked for: {' '.join(sorted(SUFFIXES))}.")
    if not labelled:
        return Folder(tuple(paths), None)
    loose = next((path for path in paths if path.parent == folder), None)
    if loose is not None:
        raise FileError(f"{loose} lies in no subfolder, so it has no class; give a folder with one subfolder a class.")
    classes = sorted(path.name for path in folder.iterdir() if path.is_dir())
    numbers = {name: number for number, name in enumerate(classes)}
    return Folder(tuple(paths), tuple(numbers[path.relative_to(folder).parts[0]] for path in paths), tuple(classes))


def read_picture(path: Path, channels: int, side: int) -> Tensor:
    """Read a picture upright, its shorter side resized to `side`, and its middle: `[channels, side, side]` uint8.

    Raises:
        FileError: it cannot be read to its end.
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as opened:
            image = ImageOps.exif_transpose(opened)
            if image.mode in DEEP_MODES:
                image = image.point(lambda value: value / 257).convert("L")
            if "transparency" in image.info:
                image = image.convert("RGBA")
            image = image.convert("L" if channels == 1 else "RGB")
            scale = side / min(image.size)
            width, height = (max(side, int(length * scale)) for length in image.size)
            left, top = (width - side) // 2, (height - side) // 2
            image = image.resize((width, height), Image.Resampling.BILINEAR)
            image = image.crop((left, top, left + side, top + side))
            pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
            return pixels.view(side, side, channels).permute(2, 0, 1)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise FileError(f"{path} cannot be read: {' '.join(str(error).split()).rstrip('.')}.") from error


class Pictures(Dataset[tuple[int, Tensor | str]]):
    """Every picture with its number, normalised; in the place of one that cannot be read, why."""

    def __init__(self, paths: Sequence[Path], preprocessing: Preprocessing) -> None:
        self.paths, self.preprocessing = paths, preprocessing

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[int, Tensor | str]:
        """The number, and `[C, side, side]` float32 or a sentence."""
        wanted = self.preprocessing
        try:
            picture = read_picture(self.paths[index], len(wanted.mean), wanted.side)
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
