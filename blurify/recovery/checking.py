"""What `recover` refuses, each in one sentence."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from blurify.errors import ArgumentError, ArgumentTypeError
from blurify.recovery.fits import Settings

TRAINED = ("distill", "all")
METHODS = ("lstsq", "bn", *TRAINED)


def check_method(method: str) -> None:
    """Refuse a method that there is not."""
    if method not in METHODS:
        raise ArgumentError(f"method must be one of {', '.join(METHODS)}, got {method!r}.")


def check_pictures(images: object, settings: Settings) -> None:
    """Refuse pictures that cannot tell anything."""
    if not isinstance(images, Tensor) or not images.is_floating_point() or images.dim() < 2:
        kind = f"{images.dtype} of {images.dim()} axes" if isinstance(images, Tensor) else type(images).__name__
        raise ArgumentTypeError(f"images must be a float tensor [N, ...] as the networks take it, got {kind}.")
    if len(images) < 2 or settings.held_out_of(len(images)) >= len(images):
        raise ArgumentError(
            f"recovery needs pictures to fit to and others to hold out, and there are {len(images)}; give 64 or more."
        )
    if not bool(images.isfinite().all()):
        raise ArgumentError("the pictures hold values that are not finite; look at how they are read and normalised.")
    first = images[:1]
    if bool((images == first).all()):
        raise ArgumentError(f"all {len(images)} pictures are the same, so nothing can be learnt; give different ones.")
    rows = images.flatten(2) if images.dim() > 2 else images.flatten(1)
    if bool((rows == rows[..., :1]).all()):
        raise ArgumentError(f"all {len(images)} pictures are blank; give photographs such as the network is used on.")


def check_labels(labels: object, images: Tensor, method: str) -> None:
    """Refuse labels that are not one class a picture, or that nothing would be done with."""
    if labels is None:
        return
    whole = isinstance(labels, Tensor) and not (labels.is_floating_point() or labels.is_complex())
    if not isinstance(labels, Tensor) or not whole or labels.dtype == torch.bool or labels.dim() != 1:
        kind = f"{labels.dtype} of {labels.dim()} axes" if isinstance(labels, Tensor) else type(labels).__name__
        raise ArgumentTypeError(f"labels must be an integer tensor [N], the class of each picture, got {kind}.")
    if len(labels) != len(images):
        raise ArgumentError(f"labels must be one for each of the {len(images)} pictures, got {len(labels)}.")
    if method not in TRAINED:
        raise ArgumentError(f"labels are trained on by the methods {' and '.join(TRAINED)}, not by {method}.")


def check_classes(labels: Tensor, classes: int) -> None:
    """Refuse labels that are none of a network's classes."""
    if not classes:
        raise ArgumentError("labels are for networks that give one row of class scores, and these do not.")
    wrong = labels[(labels < 0) | (labels >= classes)].tolist()
    if wrong:
        raise ArgumentError(f"labels must be from 0 to {classes - 1}, the networks' classes, got {wrong[0]}.")


def check_relation(original: nn.Module, converted: nn.Module) -> None:
    """Refuse two models of which one cannot have been made of the other."""
    mine, theirs = dict(original.named_parameters()), dict(converted.named_parameters())
    odd = next((name for name in mine.keys() ^ theirs.keys()), None)
    odd = odd or next((name for name in mine if mine[name].shape != theirs[name].shape), None)
    if odd is not None:
        raise ArgumentError(
            f"original and converted do not belong together: {odd!r} is not in both, or has two sizes; "
            "convert this original with blurify.antialias."
        )
    large = [name for name, value in mine.items() if value.dim() > 1]
    if large and not any(torch.equal(mine[name], theirs[name].to(mine[name].device)) for name in large):
        raise ArgumentError(
            "original and converted do not belong together: not one weight is the same in both; "
            "convert this original with blurify.antialias."
        )


def out_of_memory(error: Exception, settings: Settings) -> Exception:
    """What to say if memory ran out; any other error as it is."""
    said = str(error).lower()
    if not isinstance(error, (MemoryError, torch.OutOfMemoryError)) and "allocate" not in said:
        return error
    return ArgumentError(
        f"memory ran out with a budget of {settings.memory / 2**30:.1f} GB and {settings.batch_size} pictures at a "
        f"time; {settings.memory / 2**31:.1f} GB and {max(1, settings.batch_size // 2)} pictures would take half."
    )
