"""`recover`: what the user gives is checked here, once; then each method in turn, each kept only if it helps."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from blurify.byte_sizes import size_text
from blurify.errors import ArgumentError, HooksWarning, PlanError
from blurify.graph.module import TracedModule
from blurify.recovery.calls import Skip
from blurify.recovery.checking import (
    TRAINED,
    check_budget,
    check_classes,
    check_finite,
    check_labels,
    check_method,
    check_pictures,
    check_relation,
    check_settings,
    check_taken,
    check_training,
    is_out_of_memory,
    mark_of,
    out_of_memory,
)
from blurify.recovery.distilling import Schedule, distill
from blurify.recovery.fits import FitSettings, LayerFit
from blurify.recovery.fitting import Refit
from blurify.recovery.judging import Judge
from blurify.recovery.layout import layout
from blurify.recovery.statistics import reestimate
from blurify.recovery.steps import Steps
from blurify.recovery.team import Team
from blurify.tracing.modes import evaluating
from blurify.verifying.twins import one_tap, with_plan


@dataclass(frozen=True)
class Recovered:
    """The recovered model, what became of each layer, and what each step gave and took.

    `errors` are of the outputs on the held-out images: sums of squares of what differs from the original's, relative
    to those of the original's about their mean; `carried` is the first of them. A step whose error is not below those
    before it was taken back, but for `distill`, which is judged by its answers first; there are none where the carried
    weights were asked for. `skipped` are the layers that no fit was tried for.
    """

    model: nn.Module
    layers: tuple[LayerFit, ...]
    skipped: dict[str, Skip]
    errors: dict[str, float]
    seconds: dict[str, float]
    pictures: int

    @property
    def fitted(self) -> tuple[LayerFit, ...]:
        """Return the layers that have new weights: none, if what `lstsq` gave was taken back."""
        return () if self._fit_taken_back else tuple(layer for layer in self.layers if layer.ridge is not None)

    @property
    def _fit_taken_back(self) -> bool:
        return "lstsq" in self.errors and not self.errors["lstsq"] < self.errors["carried"]

    @property
    def pictures_wanted(self) -> int:
        """How many images there must be for every layer to have as many equations as unknowns."""
        return max((layer.pictures_wanted for layer in self.layers), default=0)

    def __str__(self) -> str:
        """Return a few lines."""
        if not self.errors:
            return "the weights are the original's; nothing was fitted"
        steps = " -> ".join(f"{name} {error:.4f}" for name, error in self.errors.items())
        found = f"{len(self.fitted)} of {len(self.layers) + len(self.skipped)} layers behind a blur have new weights, "
        lines = [
            f"{found if 'lstsq' in self.errors else 'recovered '}from {self.pictures} images in "
            f"{sum(self.seconds.values()):.0f} s",
            f"error of the outputs on held-out images: {steps}",
        ]
        if self._fit_taken_back:
            lines.append("the result of lstsq was discarded, because it does not lower that error; give more images")
        if self.pictures_wanted > self.pictures:
            few = [layer.layer for layer in self.layers if layer.pictures_wanted > self.pictures]
            lines.append(f"more unknowns than equations; {self.pictures_wanted} images are enough: " + some(few))
        for reason in dict.fromkeys(layer.skip for layer in self.layers if layer.skip is not None):
            kept = [layer for layer in self.layers if layer.skip is reason]
            wanted = max(layer.memory for layer in kept)
            budget = f", and a memory of {size_text(wanted)} would be enough" if wanted else ""
            lines.append(f"{reason}{budget}: {some([layer.layer for layer in kept])}")
        return "\n".join(lines)


def some(names: Sequence[str], most: int = 3) -> str:
    """How many layers these are, and the first of them."""
    return f"{len(names)} layer{'s' * (len(names) != 1)} ({', '.join(names[:most])}{', ...' * (len(names) > most)})"


def recover(
    original: nn.Module,
    converted: nn.Module,
    images: Tensor,
    *,
    labels: Tensor | None = None,
    method: str = "lstsq",
    memory: int = 4 * 10**9,
    held_out: float = 0.2,
    batch_size: int = 16,
    seed: int = 0,
    frozen_norms: bool = False,
    epochs: int = 4,
    rate: float | None = None,
    checkpoint: str | Path | None = None,
    tell: Callable[[LayerFit], None] = lambda fit: None,
    shared: bool = False,
) -> Recovered:
    """Return `converted` with weights that make it give again what `original` gives, found without labels or training.

    >>> import blurify, torch, torchvision
    >>> model = torchvision.models.resnet18().eval()
    >>> smooth = blurify.antialias(model)
    >>> recovered = blurify.recover(model, smooth, torch.rand(8, 3, 64, 64))
    >>> recovered.errors["lstsq"] <= recovered.errors["carried"]
    True

    Both networks have one graph, so they are run side by side. At every conv and linear layer behind a blur the weights
    become the ridge least-squares solution of `W x + b = t`: `x` is what the converted network, its earlier layers
    fitted, feeds the layer, and `t` what the original's layer gives (as layers are fitted in quantization by Hubara et
    al., "Accurate Post Training Quantization With Small Calibration Sets", ICML 2021, section 3.1, and in pruning by He
    et al., "Channel Pruning", ICCV 2017, section 3.1). Names stay; values change. Both models are left as found.

    Args:
        original: the network before `blurify.antialias`.
        converted: what that returned.
        images: float, `[N, ...]`, on the models' device, as the networks take them. The last of them are held out.
        labels: integers `[N]`, the class of each image, where they are known: `distill` then trains on these too, by
            their cross-entropy at the weight of the original's answers.
        method: `lstsq`, the fit; `bn`, batch-norm statistics estimated again; `distill`, training on the original's
            outputs (`blurify.recovery.distilling`); `all`, one after the other. Of what `lstsq` and `bn` give, nothing
            is kept unless the outputs on the held-out images come nearer to the original's. Of `distill` the epoch is
            kept that misses the fewest of their labels, among equals the one whose class is most often the original's,
            and among equals again the nearest; none, if the start was as good.
        memory: bytes that may be taken for what lies between two layers; what is beyond them goes to temporary files.
        held_out: the share of images that choose how strongly each layer is tied to its carried weights.
        batch_size: how many images are run at a time.
        seed: of the positions of large maps that are fitted to.
        frozen_norms: whether `bn` estimates those batch-norms again too that the model itself freezes.
        epochs: how often `distill` goes through the images, at most.
        rate: the learning rate that `distill` begins with; unless given, half a millionth a step, 0.001 at most.
        checkpoint: a file that keeps the training after each epoch; if it exists, the training resumes from it.
        tell: called after each layer.
        shared: share the training between the processes of `torch.distributed`, which all call this with the same, each
            on its own device, and return the same weights. The first alone writes the checkpoint.

    Raises:
        ArgumentTypeError: `converted` was not made by blurify, `images` is no float tensor, or `labels` no integers.
        ArgumentError: the models do not belong together, the images tell nothing, labels do not fit the images or
            the classes, a network gives values that are not finite, or memory runs out.
    """
    check_method(method)
    settings = FitSettings(memory=memory, held_out=held_out, batch_size=batch_size, seed=seed)
    check_settings(settings)
    check_pictures(images, settings)
    check_labels(labels, images, method)
    check_training(epochs, rate)
    team = Team(shared)
    teacher, student = twins(original, converted, images)
    for network in (teacher, student):
        team.settle(network)
    count = settings.held_out_of(len(images))
    known = None if labels is None else labels.to(images.device, dtype=torch.int64)
    path = None if checkpoint is None else Path(checkpoint)
    mark = "" if path is None else mark_of(converted, images, labels, settings)
    fits: list[LayerFit] = []
    skipped: dict[str, Skip] = {}
    with ExitStack() as stack:
        for network in (teacher, student):
            stack.enter_context(evaluating(network))
        try:
            images = images.contiguous(memory_format=layout(images, (teacher, student)))
            for network in (teacher, student):
                check_finite(network, images[-count:], batch_size)
            judge = Judge(teacher, images[-count:], batch_size, None if known is None else known[-count:])
            if known is not None:
                check_classes(known, judge.classes)
            steps = Steps(student, judge, team)
            if method in ("lstsq", "all"):
                refit = Refit(teacher, student, images, settings)
                skipped = refit.skipped
                steps.run("lstsq", lambda: fits.extend(refit.run(tell)))
                check_budget(fits, settings)
            if method in ("bn", "all"):
                steps.run("bn", lambda: reestimate(student, images, batch_size, frozen_norms))
            if method in TRAINED:
                # After the fit layers give what they should as nearly as they can, and features only hold back.
                weight = 0.0 if method == "all" else 1.0
                schedule = Schedule(epochs=epochs, rate=rate, batch_size=batch_size, seed=seed, features=weight)
                told = None if known is None else known[:-count]
                own = f"{mark} {epochs} {rate}"
                steps.run(
                    "distill",
                    lambda: distill(teacher, student, images[:-count], schedule, steps.score, path, told, team, own),
                    by_answers=True,
                )
        except (MemoryError, RuntimeError) as error:
            if is_out_of_memory(error):
                raise out_of_memory(settings) from error
            raise
    model = copy.deepcopy(converted)
    model.load_state_dict(student.state_dict())
    errors = {name: score.error for name, score in steps.scores.items()}
    return Recovered(model, tuple(fits), skipped, errors, steps.seconds, len(images))


def twins(original: nn.Module, converted: nn.Module, images: Tensor) -> tuple[TracedModule, TracedModule]:
    """Return the original and the converted network as traced modules of one graph, the second over weights of its own.

    Both are optimized alike: a shortcut that is blurred before its 1x1 conv is fitted to what it then gives.
    """
    converted, plan = with_plan(converted)
    if not plan.rewritten:
        raise ArgumentError("converted has no blur that the original has not, so there is nothing to recover.")
    check_relation(original, converted)
    check_taken(original, images)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", HooksWarning)
            student = plan.apply(original, form="graph", example_inputs=images[:1])
            unblurred = plan.apply(original, inplace=True, form="graph", example_inputs=images[:1])
    except PlanError as error:
        raise ArgumentError(f"converted was not made of this original: {error}") from error
    student.load_state_dict(converted.state_dict())
    return one_tap(unblurred, plan), student
