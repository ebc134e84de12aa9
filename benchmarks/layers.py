"""Each kernel against its peers: `python -m benchmarks.layers [--quick]`. Times as ratios to ours."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from typing import Any

import antialiased_cnns
import timm.layers
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.timing import medians, record, table
from blurify.filters import binomial_taps
from blurify.layers import BlurPool2d, DenseMaxPool2d

BLUR_SHAPES = ((8, 64, 112, 112), (8, 256, 56, 56), (8, 512, 28, 28), (8, 1024, 14, 14), (8, 2048, 7, 7))
MAX_SHAPES = ((8, 64, 112, 112), (8, 256, 56, 56), (8, 256, 28, 28))
# Those of MobileNetV2 that have a stride.
DEPTHWISE_SHAPES = ((8, 96, 112, 112), (8, 144, 56, 56), (8, 192, 28, 28), (8, 576, 14, 14))
LAYOUTS = {"NCHW": torch.contiguous_format, "NHWC": torch.channels_last}


def plain_blur(size: int) -> Callable[[Tensor], Tensor]:
    """Reflect padding and a depthwise convolution."""
    taps = torch.tensor(binomial_taps(size), dtype=torch.float32)
    filt = (taps[:, None] * taps[None]).view(1, 1, size, size)
    low, high = (size - 1) // 2, size // 2

    def run(x: Tensor) -> Tensor:
        x = F.pad(x, (low, high, low, high), mode="reflect")
        return F.conv2d(x, filt.expand(x.shape[1], 1, size, size), stride=2, groups=x.shape[1])

    return run


def blurs(channels: int, size: int) -> dict[str, Callable[[Tensor], Tensor]]:
    """Ours first, then the peers of the same filter."""
    found: dict[str, Callable[[Tensor], Tensor]] = {
        "ours": BlurPool2d(channels, filt_size=size),
        "pad + conv2d": plain_blur(size),
        "antialiased-cnns": antialiased_cnns.BlurPool(channels, filt_size=size, stride=2),
    }
    if size != 4:
        found["timm"] = timm.layers.BlurPool2d(channels, filt_size=size, stride=2)
    try:
        import kornia
    except ImportError:
        return found
    return found | {"kornia": kornia.filters.BlurPool2D(size, stride=2)}


def maxima(kernel: int, padding: int) -> dict[str, Callable[[Tensor], Tensor]]:
    """Ours and PyTorch's."""
    return {
        "ours": DenseMaxPool2d(kernel, 2, padding),
        "F.max_pool2d": lambda x: F.max_pool2d(x, kernel, 1, padding),
    }


def depthwise(channels: int, layout: torch.memory_format) -> dict[str, Callable[[Tensor], Tensor]]:
    """A depthwise conv at the stride that the method needs, and at the one that it had."""
    conv = nn.Conv2d(channels, channels, 3, 1, 1, groups=channels, bias=False).to(memory_format=layout)
    return {
        "ours": conv,
        "at stride 2": lambda x: F.conv2d(x, conv.weight, stride=2, padding=1, groups=channels),
    }


def cases(quick: bool) -> Iterator[tuple[str, tuple[int, ...], str, dict[str, Callable[[Tensor], Tensor]]]]:
    """What is timed: a name, a shape, a layout and the ways to do it."""
    batches = (8,) if quick else (8, 1)
    for batch in batches:
        for layout in LAYOUTS:
            for shape in BLUR_SHAPES[1::2] if quick else BLUR_SHAPES:
                for size in (4,) if quick else (3, 4, 5):
                    yield f"blur f={size}", (batch, *shape[1:]), layout, blurs(shape[1], size)
            for shape in MAX_SHAPES[:1] if quick else MAX_SHAPES:
                for kernel, padding in ((2, 0), (3, 1)):
                    yield f"max k={kernel} p={padding}", (batch, *shape[1:]), layout, maxima(kernel, padding)
            for shape in DEPTHWISE_SHAPES[:1] if quick else DEPTHWISE_SHAPES:
                yield "depthwise conv k=3", (batch, *shape[1:]), layout, depthwise(shape[1], LAYOUTS[layout])


def measure(
    name: str, shape: tuple[int, ...], layout: str, ways: dict[str, Callable[[Tensor], Tensor]], rounds: int
) -> dict[str, Any]:
    """One row: our milliseconds, and every other way's ratio to them, the copy of the input included."""
    x = torch.randn(shape).contiguous(memory_format=LAYOUTS[layout])
    expected = ways["ours"](x)
    for way, run in ways.items():
        # kornia pads otherwise, and a strided conv gives less.
        if way not in ("kornia", "at stride 2"):
            torch.testing.assert_close(run(x), expected, rtol=1e-4, atol=1e-5)
    actions = {way: (lambda run=run: run(x)) for way, run in ways.items()} | {"copy": x.clone}
    seconds = medians(actions, rounds)
    ours = seconds.pop("ours")
    row: dict[str, Any] = {"case": name, "shape": "x".join(map(str, shape)), "layout": layout, "ms": ours * 1e3}
    return row | {way: value / ours for way, value in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.layers", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few cases and rounds")
    options = parser.parse_args()
    torch.manual_seed(0)
    with torch.no_grad():
        rows = [measure(*case, rounds=5 if options.quick else 15) for case in cases(options.quick)]
    print(table(rows))
    print(f"written to {record('layers', rows)}")


if __name__ == "__main__":
    main()
