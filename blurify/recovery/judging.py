"""How far a network is from what is wanted of it, on images that nothing is fitted to."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from blurify.verifying.outputs import tensors_in


class Score(NamedTuple):
    """Of two the lower is the better, read from the left: what is told in answers first, the error between equals.

    `wrong` is the share of images whose label the network misses, 0 without labels; `differing` the share whose class
    is not the original's, 0 of networks that give no classes; `error` that of the outputs.
    """

    wrong: float
    differing: float
    error: float


class Judge:
    """Hold the original's outputs on the held-out images, and their labels, if there are any."""

    def __init__(self, teacher: nn.Module, held: Tensor, batch_size: int, labels: Tensor | None = None) -> None:
        self.held, self.batch_size = held, batch_size
        self.wanted = outputs(teacher, held, batch_size)
        self.classes = count_classes(teacher, held[:1])
        self.labels = None if labels is None else labels.cpu()

    def score(self, network: nn.Module) -> Score:
        """How far the network is from what is wanted."""
        given = outputs(network, self.held, self.batch_size)
        answers = given.argmax(1)
        wrong = 0.0 if self.labels is None else share(answers != self.labels)
        differing = share(answers != self.wanted.argmax(1)) if self.classes else 0.0
        return Score(wrong, differing, self._error(given))

    def _error(self, given: Tensor) -> float:
        varying, energy = ((self.wanted - mean).square().sum() for mean in (self.wanted.mean(0), 0.0))
        # Outputs that hardly vary have rounding alone to be compared with.
        return float((given - self.wanted).square().sum() / torch.maximum(varying, 1e-12 * energy).clamp_min(1e-300))


@torch.no_grad()
def outputs(network: nn.Module, pictures: Tensor, batch_size: int) -> Tensor:
    """All tensors that the network gives, a row an image, float64."""
    rows = []
    for part in torch.split(pictures, batch_size):
        leaves = (leaf for leaf in tensors_in(network(part)) if leaf.is_floating_point() and len(leaf) == len(part))
        rows.append(torch.cat([leaf.flatten(1).cpu().double() for leaf in leaves], 1))
    return torch.cat(rows)


@torch.no_grad()
def count_classes(network: nn.Module, pictures: Tensor) -> int:
    """How many classes the network gives scores of; 0 if it gives something else."""
    given = list(tensors_in(network(pictures)))
    return given[0].shape[1] if len(given) == 1 and given[0].dim() == 2 and given[0].shape[1] > 1 else 0


def share(those: Tensor) -> float:
    """How many of all are true."""
    return float(those.double().mean())
