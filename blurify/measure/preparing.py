"""How images are prepared for a model: as the user says, else as the model's own configuration does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from blurify.errors import ArgumentError
from blurify.measure.folder import IMAGENET_MEAN, IMAGENET_STD, INTERPOLATIONS, Preprocessing, check_normalisation


@dataclass(frozen=True)
class PreprocessOverrides:
    """Hold the user's preprocessing options, and the margin for shifts in pixels."""

    input_size: tuple[int, ...] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    shift: int = 32


def prepared(own: Mapping[str, Any], asked: PreprocessOverrides) -> tuple[int, Preprocessing]:
    """Return the side of the model's input, and what happens to images before it.

    `own` has the model's `input_size`, and where its configuration says them `mean`, `std` and `interpolation`; what
    nobody says is as ImageNet's models have it.

    >>> prepared({"input_size": (3, 224, 224)}, PreprocessOverrides())[0]
    224

    Raises:
        ArgumentError: the input is not square, or the normalisation does not suit its channels.
    """
    channels, size = square(asked.input_size or tuple(own["input_size"]))

    def chosen(given: tuple[float, ...] | None, name: str, usual: tuple[float, ...]) -> tuple[float, ...]:
        values = tuple(given or own.get(name) or usual)
        # Of a grey image, what its three equal channels have on the average.
        return values if given or len(values) == channels else (sum(values) / len(values),) * channels

    mean, std = chosen(asked.mean, "mean", IMAGENET_MEAN), chosen(asked.std, "std", IMAGENET_STD)
    check_normalisation(mean, std, channels)
    interpolation = str(own.get("interpolation", "bilinear"))
    known = interpolation if interpolation in INTERPOLATIONS else "bilinear"
    return size, Preprocessing(size + asked.shift, mean, std, known)


def square(size: tuple[int, ...]) -> tuple[int, int]:
    """Return the channels and the side of an input.

    >>> square((3, 224, 224))
    (3, 224)
    """
    if len(size) != 3 or size[1] != size[2]:
        raise ArgumentError(
            f"Windows are square, and an input of {'x'.join(map(str, size))} is not; "
            "give channels and a square with --input-size, such as 3,224,224."
        )
    return size[0], size[1]
