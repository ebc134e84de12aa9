"""The demo: a small trained classifier of real digits, converted, proved, and measured before and after."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from blurify.api import antialias
from blurify.demo.classifier import FRAME, DigitNet, frame
from blurify.drawing.canvas import STILL, check_suffix, require_matplotlib, save
from blurify.drawing.sliding import Slide, sliding_strip
from blurify.files.atomic import check_output
from blurify.measure.consistency import accuracy, agreement, correctness, diagonal_sweep, shifted_answers, variation
from blurify.measure.estimate import Estimate, estimate
from blurify.planning.plan import Plan
from blurify.verifying.proving import verify
from blurify.verifying.verdict import Verdict

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ASSET = "digits.pt"
# Offsets of 0 to 8 are one whole period of the network, whose strides multiply to 8, and keep clear of the borders.
REACH = 4
# Pairs of windows an image: with this many the images, not the draws, make the width of the intervals.
ROUNDS = 3


@dataclass(frozen=True)
class BeforeAfter:
    """One measure of the original, of the converted model, and their paired difference, each with its interval."""

    before: Estimate
    after: Estimate
    change: Estimate


@dataclass(frozen=True)
class DemoResult:
    """Hold the demo's results; `str()` is the report."""

    plan: Plan
    verdict: Verdict
    filt_size: int
    consistency: BeforeAfter
    accuracy: BeforeAfter
    shifted_accuracy: BeforeAfter
    seconds: float

    def __str__(self) -> str:
        """Return the plan, the proofs, the table of measures, and how they were taken."""
        head = f"A small residual network for handwritten digits, blurred with filter size {self.filt_size}."
        return "\n\n".join([head, str(self.plan), str(self.verdict), self._table(), self._notes()])

    def as_json(self) -> str:
        """Return the same for a program."""
        measures = ("consistency", "shifted_accuracy", "accuracy")
        content = {"filt_size": self.filt_size, "plan": json.loads(self.plan.to_json())}
        content |= {"proofs": {"ok": self.verdict.ok} | asdict(self.verdict)}
        content |= {name: asdict(getattr(self, name)) for name in measures}
        return json.dumps(content | {"seconds": self.seconds}, indent=1)

    def _table(self) -> str:
        rows = {
            "same answer under two shifts": self.consistency,
            "right answer, shifted": self.shifted_accuracy,
            "right answer, centred": self.accuracy,
        }
        lines = [f"{name:<30}{c.before!s:<24}{c.after!s:<24}{c.change.as_change()}" for name, c in rows.items()]
        return "\n".join([f"{'':<30}{'before':<24}{'after':<24}change", *lines])

    def _notes(self) -> str:
        return (
            f"{self.consistency.before.pictures} MNIST test images, shifted by up to {REACH} pixels each way; "
            "95 % intervals by bootstrap over images.\n"
            f"The weights are carried over; nothing was trained after. Took {self.seconds:.1f} s."
        )


def read_asset() -> dict[str, Any]:
    """Read the shipped file: `state_dict`, `pictures` uint8 `[N, 28, 28]`, `labels` uint8 `[N]`, `provenance`.

    >>> read_asset()["provenance"]["seed"]
    0
    """
    with as_file(files(__package__) / ASSET) as path:
        asset: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return asset


def load_demo() -> tuple[nn.Module, Tensor, Tensor]:
    """Return the trained classifier in `.eval()`, its test images and their labels.

    >>> model, pictures, labels = load_demo()
    >>> model(pictures[:2]).argmax(1).tolist() == labels[:2].tolist()
    True

    Images are `[N, 1, 40, 40]` float32 from 0 to 1, labels `[N]` int64. They are the first of the MNIST test set;
    `python -m benchmarks.train_demo` made the file. The random state is left as found.
    """
    asset = read_asset()
    with torch.random.fork_rng(devices=[]):
        model = DigitNet()
    model.load_state_dict(asset["state_dict"])
    return model.eval(), frame(asset["pictures"]), asset["labels"].long()


def run_demo(filt_size: int = 4, picture: Path | None = None) -> DemoResult:
    """Convert the classifier, verify it, measure both; draw the before-and-after plot into `picture` if given.

    >>> result = run_demo(filt_size=3)
    >>> result.verdict.ok
    True

    Consistency is how often an image keeps its top-1 class between two random shifts; see
    `blurify.measure.consistency`. It shows the image whose true class's probability moves most before.
    Everything is seeded, so a second run finds the same.

    Raises:
        ArgumentError: `filt_size` is not allowed, or `picture` ends neither in .png nor in .svg.
        BlurifyError: a plot is asked for and matplotlib is missing.
        FileError: `picture` cannot be written.
    """
    start = time.perf_counter()
    if picture is not None:
        require_matplotlib()
        check_suffix(picture, STILL)
        check_output(picture, force=True)
    model, pictures, labels = load_demo()
    converted = antialias(model, filt_size=filt_size, example_inputs=pictures[:1])
    # With room to move: an emptier, larger image that a window of the network's own size is cut from.
    wide = F.pad(pictures, (REACH,) * 4)
    models = (model, converted)
    answers = [shifted_answers(m, wide, FRAME, rounds=ROUNDS) for m in models]
    result = DemoResult(
        plan=vars(converted)["meta"]["blurify"],
        verdict=verify(model, converted, pictures[:8]),
        filt_size=filt_size,
        consistency=_compare(*(agreement(a) for a in answers)),
        accuracy=_compare(*(accuracy(m, pictures, labels) for m in models)),
        shifted_accuracy=_compare(*(correctness(a, labels) for a in answers)),
        seconds=time.perf_counter() - start,
    )
    if picture is not None:
        save(_drawing(model, converted, wide, labels), picture)
    return result


def _drawing(original: nn.Module, converted: nn.Module, wide: Tensor, labels: Tensor) -> Figure:
    sweeps = [diagonal_sweep(m, wide, FRAME) for m in (original, converted)]
    moved = [variation(sweep, labels) for sweep in sweeps]
    index = int(moved[0].argmax())
    mean_before, mean_after = (float(values.mean()) for values in moved)
    caption = (
        f"MNIST test image {index}: of the {len(labels)} shipped, the one whose true class's probability moves most "
        f"before. Over all of them it moves by {mean_before:.2f} in all before, {mean_after:.2f} after, on average. "
        "Same weights, nothing trained after. A filled box is a wrong answer."
    )
    # Ink on paper, as digits are written.
    windows = torch.stack(
        [1 - wide[index, :, step : step + FRAME, step : step + FRAME] for step in range(2 * REACH + 1)]
    )
    before, after = (sweep[index] for sweep in sweeps)
    return sliding_strip(Slide(windows, before, after, int(labels[index])), caption=caption)


def _compare(before: Tensor, after: Tensor) -> BeforeAfter:
    return BeforeAfter(estimate(before), estimate(after), estimate(after - before))
