"""What was tried and is not done, against what is: `python -m benchmarks.alternatives [--quick]`.

Times of the alternative as ratios to ours in the same interleaved run: above 1 is slower.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.models.inception import InceptionB, InceptionD

from benchmarks.layers import LAYOUTS
from benchmarks.timing import medians, record, table
from blurify import antialias, plain
from blurify.graph_module import TracedModule
from blurify.layers import BlurPool2d, DenseMaxPool2d, MaxBlurPool2d
from blurify.rewrite import insert_after

CHANNELS_AND_SIZE = (((384, 96, 288), 35), ((320, 192, 768), 17), ((64, 64, 64), 56), ((24, 24), 56))
# Kernel size, stride, filter size.
POOLS = ((3, 3, 2), (2, 3, 2), (3, 4, 3))
Ways = dict[str, Callable[[], Tensor]]


def concats(batch: int, layout: torch.memory_format) -> Iterator[tuple[str, Ways]]:
    """Blurs of all inputs of a concatenation, and one after it."""
    blur = BlurPool2d(None)
    for channels, size in CHANNELS_AND_SIZE:
        maps = [torch.randn(batch, c, size, size).contiguous(memory_format=layout) for c in channels]
        ways: Ways = {
            "ours": lambda maps=maps: torch.cat([blur(x) for x in maps], 1),
            "alternative": lambda maps=maps: blur(torch.cat(maps, 1)),
        }
        yield f"one blur after concat, {'+'.join(map(str, channels))} at {size}", ways


# Reductions of inception_v3, and what they are fed at 299 pixels and at 128.
REDUCTIONS = ((InceptionB, 288, (35, 14)), (InceptionD, 768, (17, 6)))


def reductions(batch: int, layout: torch.memory_format) -> Iterator[tuple[str, Ways]]:
    """The same in the blocks that end so, with their convolutions."""
    for kind, channels, sizes in REDUCTIONS:
        block = antialias(kind(channels).eval(), stem=True, form="graph")
        after = blurred_after(block).to(memory_format=layout)
        block = block.to(memory_format=layout)
        for size in sizes:
            x = torch.randn(batch, channels, size, size).contiguous(memory_format=layout)
            ways: Ways = {"ours": lambda x=x, block=block: block(x), "alternative": lambda x=x, after=after: after(x)}
            yield f"one blur after concat, {kind.__name__} at {size}", ways


def blurred_after(block: TracedModule) -> TracedModule:
    """The block with one blur after its concatenation in the place of one before each input."""
    twin = block.shallow_copy()
    with twin.edited():
        for graph in twin.graphs:
            concat = next(node for node in graph.nodes if node.target is torch.cat)
            blurs = list(concat.all_input_nodes)
            for blur in blurs:
                blur.replace_all_uses_with(blur.all_input_nodes[0])
                graph.erase_node(blur)
            insert_after(concat, str(blurs[0].target))
    return twin


def picked(x: Tensor, blur: BlurPool2d, kernel_size: int) -> Tensor:
    """The maxima at the positions that the blur reads, reflected at the borders, then the blur of those."""
    taps, stride = blur.filt_size[0], blur.stride[0]
    for dim in (3, 2):
        last = x.shape[dim] - kernel_size
        starts = torch.arange(last // stride + 1)[:, None] * stride
        read = (last - (last - (starts + torch.arange(taps) - (taps - 1) // 2).abs()).abs()).reshape(-1)
        found = x.index_select(dim, read)
        for shift in range(1, kernel_size):
            found = torch.maximum(found, x.index_select(dim, read + shift))
        x = found
    return plain.blur(x, blur.filt, [taps, taps], [0, 0], [0, 0], "reflect")


def maxima(batch: int, layout: torch.memory_format) -> Iterator[tuple[str, Ways]]:
    """A dense maximum and a blur of a filter shorter than its stride, and the maximum only where the blur reads."""
    for kernel_size, stride, filt_size in POOLS:
        x = torch.randn(batch, 64, 112, 112).contiguous(memory_format=layout)
        dense, blur = DenseMaxPool2d(kernel_size, stride), BlurPool2d(None, filt_size=filt_size, stride=stride)
        ways: Ways = {
            "ours": lambda x=x, dense=dense, blur=blur: blur(dense(x)),
            "alternative": lambda x=x, blur=blur, kernel_size=kernel_size: picked(x, blur, kernel_size),
        }
        yield f"maxima where read, k={kernel_size} s={stride} f={filt_size}", ways


def poolings(batch: int, layout: torch.memory_format) -> Iterator[tuple[str, Ways]]:
    """Of one tap, all maxima and then those that are read, and PyTorch's own strided pool."""
    x = torch.randn(batch, 64, 112, 112).contiguous(memory_format=layout)
    for kernel_size, padding in ((3, 1), (2, 0)):
        window = kernel_size, 2, padding
        strided, dense, blur = MaxBlurPool2d(*window, filt_size=1), DenseMaxPool2d(*window), BlurPool2d(filt_size=1)
        ways: dict[str, Ways] = {
            "all maxima": {"alternative": lambda dense=dense, blur=blur: blur(dense(x))},
            "max_pool2d": {"alternative": lambda window=window: F.max_pool2d(x, *window)},
        }
        for name, alternative in ways.items():
            yield f"{name}, one tap, k={kernel_size}", {"ours": lambda strided=strided: strided(x), **alternative}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.alternatives", description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few cases and rounds")
    options = parser.parse_args()
    torch.manual_seed(0)
    rows: list[dict[str, object]] = []
    for batch in (8,) if options.quick else (1, 8):
        for layout, memory_format in LAYOUTS.items():
            for kind in (concats, reductions, maxima, poolings):
                for name, ways in kind(batch, memory_format):
                    torch.testing.assert_close(ways["alternative"](), ways["ours"](), rtol=1e-4, atol=1e-5)
                    seconds = medians(ways, 5 if options.quick else 15)
                    ratio = seconds["alternative"] / seconds["ours"]
                    rows.append({"alternative": name, "batch": batch, "layout": layout, "/ ours": ratio})
    print(table(rows))
    print(f"written to {record('alternatives', rows)}")


if __name__ == "__main__":
    with torch.no_grad():
        main()
