"""The order in memory in which the networks run fastest, where they take it.

CPUs compute convs, depthwise ones above all, and read the rows of a fit faster where a position's channels lie beside
each other. A network that looks at its maps through `view` may refuse that.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from blurify.tracing.modes import evaluating

FORMATS = {4: torch.channels_last, 5: torch.channels_last_3d}


@torch.no_grad()
def layout(pictures: Tensor, networks: Iterable[nn.Module]) -> torch.memory_format:
    """Channels last on a CPU if all networks take the images so, the usual order otherwise."""
    wanted = FORMATS.get(pictures.dim())
    if wanted is None or pictures.device.type != "cpu":
        return torch.contiguous_format
    try:
        for network in networks:
            with evaluating(network):
                network(pictures[:1].to(memory_format=wanted))
    except RuntimeError:
        return torch.contiguous_format
    return wanted
