"""Refusals of `recover`, each in one sentence."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from math import inf
from typing import Any

import torch
from torch import Tensor, fx, nn

from blurify.byte_sizes import size_text
from blurify.errors import ArgumentError, ArgumentTypeError, one_line
from blurify.graph.module import TracedModule
from blurify.recovery.calls import Skip
from blurify.recovery.fits import FitSettings, LayerFit
from blurify.tracing.inputs import Inputs
from blurify.tracing.modes import evaluating
from blurify.tracing.shapes import placeholder_values
from blurify.verifying.outputs import tensors_in
from blurify.verifying.twins import with_plan

TRAINED = ("distill", "all")
METHODS = ("lstsq", "bn", *TRAINED)


class OutOfMemoryError(ArgumentError):
    """Memory ran out; a training can be resumed with less."""


def check_method(method: str) -> None:
    """Refuse a method that there is not."""
    if method not in METHODS:
        raise ArgumentError(f"method must be one of {', '.join(METHODS)}, got {method!r}.")


def check_pictures(images: object, settings: FitSettings) -> None:
    """Refuse images that cannot tell anything."""
    if not isinstance(images, Tensor) or not images.is_floating_point() or images.dim() < 2:
        kind = f"{images.dtype} of {images.dim()} axes" if isinstance(images, Tensor) else type(images).__name__
        raise ArgumentTypeError(f"images must be a float tensor [N, ...] as the networks take it, got {kind}.")
    if len(images) < 2 or settings.held_out_of(len(images)) >= len(images):
        raise ArgumentError(
            f"Recovery needs images to fit to and others to hold out, and there are {len(images)}; give 64 or more."
        )
    if not bool(images.isfinite().all()):
        raise ArgumentError("The images hold values that are not finite; look at how they are read and normalised.")
    first = images[:1]
    if bool((images == first).all()):
        raise ArgumentError(f"All {len(images)} images are the same, so nothing can be learnt; give different ones.")
    rows = images.flatten(2) if images.dim() > 2 else images.flatten(1)
    if bool((rows == rows[..., :1]).all()):
        raise ArgumentError(f"All {len(images)} images are blank; give photographs such as the network is used on.")


def check_settings(settings: FitSettings) -> None:
    """Refuse numbers that nothing can be done with."""
    for name, least in (("memory", 1), ("batch_size", 1), ("seed", 0)):
        value = getattr(settings, name)
        if isinstance(value, bool) or not isinstance(value, int):
            raise ArgumentTypeError(f"{name} must be a whole number, got {value!r}.")
        if value < least:
            raise ArgumentError(f"{name} must be at least {least}, got {value}.")
    if not 0 < settings.held_out < 1:
        raise ArgumentError(f"held_out must be above 0 and below 1, got {settings.held_out}.")


def check_training(epochs: object, rate: object) -> None:
    """Refuse a training that cannot be made."""
    if isinstance(epochs, bool) or not isinstance(epochs, int):
        raise ArgumentTypeError(f"epochs must be a whole number, got {epochs!r}.")
    if epochs < 1:
        raise ArgumentError(f"epochs must be at least 1, got {epochs}.")
    if rate is None:
        return
    if isinstance(rate, bool) or not isinstance(rate, int | float):
        raise ArgumentTypeError(f"rate must be a number, or None to go by the steps, got {rate!r}.")
    if not 0 < rate < inf:
        raise ArgumentError(f"rate must be above 0 and finite, got {rate}.")


def check_taken(original: nn.Module, images: Tensor) -> None:
    """Refuse a network that does not take the images."""
    try:
        with evaluating(original), torch.no_grad():
            original(images[:1])
    except Exception as error:
        fact = one_line(error)
        kind = f"{str(images.dtype).removeprefix('torch.')} {list(images.shape)} on {images.device}"
        raise ArgumentError(f"original does not take these images ({kind}): {fact}.") from error


@torch.no_grad()
def check_finite(network: TracedModule, pictures: Tensor, batch_size: int) -> None:
    """Refuse a network that gives values that are not finite, and say where they come up first."""
    for part in torch.split(pictures, batch_size):
        if not all(bool(leaf.isfinite().all()) for leaf in tensors_in(network(part)) if leaf.is_floating_point()):
            path = _Looking(network).first(part)
            raise ArgumentError(
                f"The networks give values that are not finite at {path!r}; look at the images and the weights."
            )


class _Looking(fx.Interpreter):
    """Runs the graph to the first layer or function whose values are not finite."""

    def __init__(self, network: TracedModule) -> None:
        super().__init__(network, graph=network.eval_graph)
        self.found: str | None = None

    def first(self, pictures: Tensor) -> str:
        """Return the path of that."""
        self.run(*placeholder_values(self.graph, Inputs((pictures,))))
        return self.found or "output"

    def run_node(self, node: fx.Node) -> Any:
        """Look at what the node gives."""
        value = super().run_node(node)
        if self.found is None and node.op.startswith("call_"):
            leaves = [leaf for leaf in tensors_in(value) if leaf.is_floating_point()]
            if not all(bool(leaf.isfinite().all()) for leaf in leaves):
                self.found = str(node.meta["path"])
        return value


def check_budget(fits: Sequence[LayerFit], settings: FitSettings) -> None:
    """Refuse a memory that holds no layer's equations."""
    if fits and all(fit.skip is Skip.TOO_LARGE for fit in fits):
        wanted = size_text(max(fit.memory for fit in fits))
        raise ArgumentError(
            f"A memory of {size_text(settings.memory)} is too small to fit any layer; {wanted} is enough for all."
        )


def mark_of(converted: nn.Module, images: Tensor, labels: Tensor | None, settings: FitSettings) -> str:
    """Return a fingerprint of a recovery, so that a checkpoint of another one is not resumed."""
    _, plan = with_plan(converted)
    mark = hashlib.blake2b(f"{plan.to_json()} {settings.held_out} {settings.seed}".encode())
    tensors = [*converted.state_dict().values(), images, *([] if labels is None else [labels])]
    for tensor in tensors:
        mark.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
        mark.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return mark.hexdigest()


def check_labels(labels: object, images: Tensor, method: str) -> None:
    """Refuse labels that are not one class an image, or that nothing would be done with."""
    if labels is None:
        return
    whole = isinstance(labels, Tensor) and not (labels.is_floating_point() or labels.is_complex())
    if not isinstance(labels, Tensor) or not whole or labels.dtype == torch.bool or labels.dim() != 1:
        kind = f"{labels.dtype} of {labels.dim()} axes" if isinstance(labels, Tensor) else type(labels).__name__
        raise ArgumentTypeError(f"labels must be an integer tensor [N], the class of each image, got {kind}.")
    if len(labels) != len(images):
        raise ArgumentError(f"labels must be one for each of the {len(images)} images, got {len(labels)}.")
    if method not in TRAINED:
        raise ArgumentError(f"labels are trained on by the methods {' and '.join(TRAINED)}, not by {method}.")


def check_classes(labels: Tensor, classes: int) -> None:
    """Refuse labels that are none of a network's classes."""
    if not classes:
        raise ArgumentError("labels are for networks that give one row of class scores, and these do not.")
    wrong = labels[(labels < 0) | (labels >= classes)].tolist()
    if wrong:
        raise ArgumentError(f"labels must be from 0 to {classes - 1}, the networks' classes, got {wrong[0]}.")


def check_relation(original: object, converted: nn.Module) -> None:
    """Refuse two models of which one cannot have been made of the other."""
    if not isinstance(original, nn.Module):
        raise ArgumentTypeError(f"original must be a torch.nn.Module, got {type(original).__name__}.")
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


def is_out_of_memory(error: Exception) -> bool:
    """Return whether the error says that memory ran out."""
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "allocate" in str(error).lower()


def out_of_memory(settings: FitSettings) -> OutOfMemoryError:
    """Return the error that says how much memory was allowed and what would take half of it."""
    half, pictures = settings.memory // 2, max(1, settings.batch_size // 2)
    return OutOfMemoryError(
        f"Memory ran out with a budget of {size_text(settings.memory)} and batches of {settings.batch_size} images; "
        f"{size_text(half)} and batches of {pictures} take half of it."
    )
