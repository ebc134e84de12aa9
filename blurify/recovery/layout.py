"""The order in memory in which the networks run fastest, where they take it.

CPUs compute convs, depthwise ones above all, and read the rows of a fit faster where a position's channels lie beside
each other. A network that looks at its maps through `view` may refuse that.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

FORMATS = {4: torch.channels_last, 5: torch.channels_last_3d}


@torch.no_grad()
def laid_out(pictures: Tensor, networks: Iterable[nn.Module]) -> Tensor:
    """The same pictures, channels last on a CPU if all networks take them so."""
    wanted = FORMATS.get(pictures.dim())
    if wanted is None or pictures.device.type != "cpu":
        return pictures
    try:
        for network in networks:
            network(pictures[:1].to(memory_format=wanted))
    except RuntimeError:
        return pictures
    return pictures.to(memory_format=wanted)
