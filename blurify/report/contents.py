"""Content of a report about a converted network on a few images: where it aliases, and how its predictions change."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from blurify.drawing.bars import folded_chart
from blurify.drawing.canvas import encode, require_matplotlib
from blurify.drawing.curves import probability_curves
from blurify.drawing.filters import filter_gallery
from blurify.drawing.heat import heat_maps
from blurify.drawing.sliding import Slide, sliding_frames, sliding_strip
from blurify.filters import Filter
from blurify.layers import Blur
from blurify.measure.aliasing import folded_energy
from blurify.measure.consistency import diagonal_sweep, variation
from blurify.measure.equivariance import OUTPUT, Deviation, network_stride, shift_deviation
from blurify.measure.estimate import estimate
from blurify.measure.probes import middle
from blurify.measure.shifts import room
from blurify.report.page import Picture, Table
from blurify.tracing.modes import evaluating

# Of as many images the answers are drawn while they slide, and of one the maps under every shift, which is slow.
SLID, MAPPED = 6, 1
SHIFTS = 4


@dataclass(frozen=True)
class Shown:
    """The images to show a network, and what is known of them.

    `pictures` are `[N, C, H, W]`, normalised as the network takes them and larger than `size`, the side of its input,
    by as much as they are to slide. `labels` are their true classes `[N]`, if known, `names` those of all classes.
    `mean` and `std` are what the images were normalised by, so that they can be shown as they were.
    """

    pictures: Tensor
    size: int
    labels: Tensor | None = None
    names: Sequence[str] = ()
    mean: Sequence[float] = (0.0,)
    std: Sequence[float] = (1.0,)

    @property
    def middle(self) -> Tensor:
        """Return the window in the middle of each image."""
        return middle(self.pictures, self.size)

    def windows(self, index: int) -> Tensor:
        """Return the crops of an image along the diagonal, `[shifts, 1 or 3, size, size]` from 0 to 1."""
        mean, std = (torch.tensor(list(values)).view(-1, 1, 1) for values in (self.mean, self.std))
        seen = self.pictures[index].cpu().float() * std + mean
        seen = seen if len(seen) in (1, 3) else seen.mean(0, keepdim=True)
        return torch.stack(
            [seen[:, s : s + self.size, s : s + self.size] for s in range(room(seen[None], self.size) + 1)]
        )


def show(original: nn.Module, converted: nn.Module, shown: Shown) -> tuple[tuple[Table, ...], tuple[Picture, ...]]:
    """Return the tables and the images of a converted network for a report, those of its sites first.

    >>> import blurify, torchvision
    >>> model = torchvision.models.resnet18().eval()
    >>> tables, pictures = show(model, blurify.antialias(model), Shown(torch.rand(2, 3, 80, 80), 64))
    >>> len(tables), [picture.title for picture in pictures][:2]
    (1, ['Where it still aliases', 'Does the map move with the image?'])

    Answers are drawn of classifiers only, what is of sites only where something was rewritten.

    Raises:
        ArgumentTypeError: `converted` was not made by blurify.
        ArgumentError: the images are too small for the window, or the network takes no such images.
        BlurifyError: matplotlib is not installed.
    """
    require_matplotlib()
    room(shown.pictures, shown.size)
    shares = folded_energy(converted, shown.middle)
    if not shares:
        return (), tuple(_answers(original, converted, shown))
    deviations = deviation_of(converted, shown)
    tables = (site_table(shares, deviations),)
    pictures = [_picture_of_shares(shares), *_picture_of_deviations(deviations), _picture_of_filters(converted)]
    return tables, (*pictures, *_answers(original, converted, shown))


def site_table(shares: Mapping[str, Tensor], deviations: Mapping[str, Deviation]) -> Table:
    """Tabulate `folded_energy` and `shift_deviation` of every site, one row each.

    >>> site_table({"maxpool": torch.tensor([[0.25, 0.0625]])}, {}).rows[0][:2]
    ('maxpool', '25.0 % (25.0 to 25.0)')
    """
    header = ["site", "energy folded back, before", "after", "difference"]
    header += ["deviation from equivariance, before", "after"] if deviations else []
    rows = []
    for site, values in shares.items():
        before, after = values.unbind(1)
        row = [site, str(estimate(before)), str(estimate(after)), estimate(after - before).as_change()]
        if deviations:
            found = deviations.get(site)
            row += ["", ""] if found is None else [f"{float(mean):.4f}" for mean in found.distance.mean((0, 2, 3))]
        rows.append(tuple(row))
    return Table("Where it still aliases", tuple(header), tuple(rows))


def deviation_of(converted: nn.Module, shown: Shown) -> dict[str, Deviation]:
    """`shift_deviation` of the middles of the first images, repeated to the network's input; empty if none fits."""
    stride = max(network_stride(converted, shown.middle[:1]))
    period = max(stride, shown.size // 2 // stride * stride)
    if period > shown.size:
        return {}
    pictures = Shown(shown.pictures[:MAPPED], period).middle
    return shift_deviation(converted, pictures, size=(shown.size, shown.size), shifts=SHIFTS)


def _picture_of_shares(shares: Mapping[str, Tensor]) -> Picture:
    caption = (
        "For every site, the share of the map's energy, beside its mean, that is folded onto lower frequencies, "
        "before and after, with 95 % intervals. Where a bar is still long, a larger filter would help."
    )
    return Picture("Where it still aliases", caption, encode(folded_chart(shares), "png"))


def _picture_of_deviations(deviations: Mapping[str, Deviation]) -> Iterable[Picture]:
    if not deviations:
        return
    caption = (
        "Cosine distance between the map of the shifted image and the shifted map, at every site and the network's "
        f"{OUTPUT}, over one period of its stride; before above, after below, each column with a scale of its own."
    )
    yield Picture("Does the map move with the image?", caption, encode(heat_maps(deviations), "png"))


def _picture_of_filters(converted: nn.Module) -> Picture:
    blurs = [module for module in converted.modules() if isinstance(module, Blur)]
    filters = {each for blur in blurs for each in blur.filters}
    strides = Counter(stride for blur in blurs for stride in blur.stride if stride > 1)
    stride = strides.most_common(1)[0][0] if strides else 2
    shown = sorted(filters | {Filter("binomial", 1)}, key=lambda each: (each.size, str(each)))
    figure = filter_gallery(shown, stride)
    caption = "The filters used, beside none: their taps, and how much of each frequency they leave."
    return Picture("Filters", caption, encode(figure, "png"))


def _answers(original: nn.Module, converted: nn.Module, shown: Shown) -> Iterable[Picture]:
    """Curves of the first images, and of that one which moves most, a strip and an animation."""
    if room(shown.pictures, shown.size) == 0 or not _is_classifier(original, shown.middle[:1]):
        return
    pictures = shown.pictures[:SLID]
    before, after = (diagonal_sweep(model, pictures, shown.size).cpu() for model in (original, converted))
    truth = shown.labels is not None
    labels = before[:, 0].argmax(1) if shown.labels is None else shown.labels[:SLID].cpu()
    rows = torch.arange(len(labels))
    called = [shown.names[label] if shown.names else f"class {label}" for label in labels.tolist()]
    what = "true class" if truth else "first answer"
    curves = probability_curves(before[rows, :, labels], after[rows, :, labels], called)
    caption = f"Probability of the {what} of the first {len(labels)} images against the diagonal shift in pixels."
    yield Picture("Probability while the image slides", caption, encode(curves, "png"))
    index = int(variation(before, labels).argmax())
    slide = Slide(shown.windows(index), before[index], after[index], int(labels[index]), shown.names, truth)
    chosen = f"Of the first {len(labels)} images, the one whose probability of the {what} moves most before."
    strip = sliding_strip(slide, caption=chosen + " A filled box is another answer than that.")
    yield Picture("One image sliding", chosen, encode(strip, "png"))
    yield Picture("The same, moving", "The two answers while the window moves.", encode(sliding_frames(slide), "gif"))


def _is_classifier(model: nn.Module, window: Tensor) -> bool:
    with evaluating(model):
        output = model(window)
    return isinstance(output, Tensor) and output.dim() == 2
