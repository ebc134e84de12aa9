"""`recover`: what the user gives is checked here, once; then each method in turn, each kept only if it helps."""

from __future__ import annotations

import copy
import time
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from blurify.errors import ArgumentError, ArgumentTypeError, HooksWarning, PlanError
from blurify.graph_module import TracedModule
from blurify.proofs import one_tap, tensors_in, with_plan
from blurify.recovery.calls import Skip
from blurify.recovery.distilling import Schedule, checkpoint_of, distill
from blurify.recovery.fits import LayerFit, Settings
from blurify.recovery.fitting import Refit
from blurify.recovery.journal import Journal
from blurify.recovery.statistics import reestimate
from blurify.tracing.modes import evaluating

METHODS = ("lstsq", "bn", "distill", "all")


@dataclass(frozen=True)
class Recovered:
    """The recovered model, what became of each layer, and what each step gave and took.

    `errors` are of the outputs on the held-out pictures: sums of squares of what differs from the original's, relative
    to those of the original's about their mean; `carried` is the first of them. A step whose error is not below the one
    before it was taken back. `skipped` are the layers that no fit was tried for.
    """

    model: TracedModule
    layers: tuple[LayerFit, ...]
    skipped: dict[str, Skip]
    errors: dict[str, float]
    seconds: dict[str, float]
    pictures: int

    @property
    def fitted(self) -> tuple[LayerFit, ...]:
        """The layers that have new weights."""
        return tuple(layer for layer in self.layers if layer.ridge is not None)

    @property
    def pictures_wanted(self) -> int:
        """How many pictures there must be for every layer to have as many equations as unknowns."""
        return max((layer.pictures_wanted for layer in self.layers), default=0)

    def __str__(self) -> str:
        """A few lines."""
        steps = " -> ".join(f"{name} {error:.4f}" for name, error in self.errors.items())
        lines = [
            f"{len(self.fitted)} of {len(self.layers) + len(self.skipped)} layers behind a blur have new weights, "
            f"from {self.pictures} pictures in {sum(self.seconds.values()):.0f} s",
            f"error of the outputs on held-out pictures: {steps}",
        ]
        if self.pictures_wanted > self.pictures:
            few = [layer.layer for layer in self.layers if layer.pictures_wanted > self.pictures]
            lines.append(
                f"{len(few)} layers ({', '.join(few[:3])}{', ...' if len(few) > 3 else ''}) have more unknowns than "
                f"these pictures tell; {self.pictures_wanted} pictures would be enough"
            )
        return "\n".join(lines)


def recover(
    original: nn.Module,
    converted: nn.Module,
    images: Tensor,
    *,
    method: str = "lstsq",
    memory: int = 4 << 30,
    held_out: float = 0.2,
    batch_size: int = 16,
    seed: int = 0,
    journal: Path | None = None,
    tell: Callable[[LayerFit], None] = lambda fit: None,
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
        method: `lstsq`, the fit; `bn`, batch-norm statistics estimated anew; `distill`, training on the original's
            outputs (`blurify.recovery.distilling`); `all`, one after the other. Of what a method gives, nothing is kept
            unless the outputs on the held-out pictures come nearer to the original's.
        memory: bytes that may be taken for what lies between two layers; what is beyond them goes to temporary files.
        held_out: the share of pictures that choose how strongly each layer is tied to its carried weights.
        batch_size: how many pictures are run at a time.
        seed: of the positions of large maps that are fitted to.
        journal: a file that keeps the layers fitted so far; if it is there already, the fit goes on from it, and so
            does the training from a file beside it.
        tell: called after each layer.

    Raises:
        ArgumentTypeError: `converted` was not made by blurify, or `images` is no float tensor.
        ArgumentError: the models do not belong together, the pictures tell nothing, a network gives values that are not
            finite, or memory runs out.
    """
    if method not in METHODS:
        raise ArgumentError(f"method must be one of {', '.join(METHODS)}, got {method!r}.")
    settings = Settings(memory=memory, held_out=held_out, batch_size=batch_size, seed=seed)
    check_pictures(images, settings)
    teacher, student = twins(original, converted, images)
    held = images[-settings.held_out_of(len(images)) :]
    fits: list[LayerFit] = []
    skipped: dict[str, Skip] = {}
    with ExitStack() as stack:
        for network in (teacher, student):
            stack.enter_context(evaluating(network))
        try:
            steps = Steps(teacher, student, held, batch_size)
            if method in ("lstsq", "all"):
                refit = Refit(teacher, student, images, settings)
                skipped = refit.skipped
                book = Journal(journal, student)
                steps.run("lstsq", lambda: fits.extend(refit.run(tell, book)))
            if method in ("bn", "all"):
                steps.run("bn", lambda: reestimate(student, images, batch_size))
            if method in ("distill", "all"):
                schedule = Schedule(batch_size=batch_size, seed=seed)
                training = None if journal is None else checkpoint_of(journal)
                steps.run(
                    "distill", lambda: distill(teacher, student, images[: -len(held)], schedule, steps.error, training)
                )
        except (MemoryError, RuntimeError) as error:
            raise out_of_memory(error, settings) from error
    model: TracedModule = copy.deepcopy(converted)  # type: ignore[assignment]
    model.load_state_dict(student.state_dict())
    return Recovered(model, tuple(fits), skipped, steps.errors, steps.seconds, len(images))


class Steps:
    """Runs one method after another, and takes back what does not bring the outputs nearer to the original's."""

    def __init__(self, teacher: TracedModule, student: TracedModule, held: Tensor, batch_size: int) -> None:
        self.student, self.held, self.batch_size = student, held, batch_size
        self.wanted = outputs(teacher, held, batch_size)
        self.errors = {"carried": self.error()}
        self.seconds: dict[str, float] = {}

    def run(self, name: str, step: Callable[[], object]) -> None:
        """Run one; keep what it did if it helps."""
        best = min(self.errors.values())
        before = {key: value.clone() for key, value in self.student.state_dict().items()}
        begin = time.perf_counter()
        step()
        self.seconds[name] = time.perf_counter() - begin
        self.errors[name] = self.error()
        # A NaN is not below anything.
        if not self.errors[name] < best:
            self.student.load_state_dict(before)

    def error(self) -> float:
        """How far the outputs on the held-out pictures are from the original's."""
        given = outputs(self.student, self.held, self.batch_size)
        varying, energy = ((self.wanted - mean).square().sum() for mean in (self.wanted.mean(0), 0.0))
        # Outputs that hardly vary have rounding alone to be compared with.
        return float((given - self.wanted).square().sum() / torch.maximum(varying, 1e-12 * energy).clamp_min(1e-300))


def outputs(network: nn.Module, pictures: Tensor, batch_size: int) -> Tensor:
    """All tensors that the network gives, a row a picture, float64."""
    rows = []
    for part in torch.split(pictures, batch_size):
        leaves = (leaf for leaf in tensors_in(network(part)) if leaf.is_floating_point() and len(leaf) == len(part))
        rows.append(torch.cat([leaf.flatten(1).cpu().double() for leaf in leaves], 1))
    return torch.cat(rows)


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


def twins(original: nn.Module, converted: nn.Module, images: Tensor) -> tuple[TracedModule, TracedModule]:
    """The original and the converted network as traced modules of one graph, the second over weights of its own.

    Neither is optimized, since that makes graphs differ.
    """
    converted, plan = with_plan(converted)
    if not plan.rewritten:
        raise ArgumentError("converted has no blur that the original has not, so there is nothing to recover.")
    check_relation(original, converted)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", HooksWarning)
            student = plan.apply(original, example_inputs=images[:1])
            teacher = one_tap(plan.apply(original, inplace=True, example_inputs=images[:1]), plan)
    except PlanError as error:
        raise ArgumentError(f"converted was not made of this original: {error}") from error
    student.load_state_dict(converted.state_dict())
    return teacher, student


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
