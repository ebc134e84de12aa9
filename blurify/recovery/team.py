"""One training in several processes, as `torchrun` starts them: each has a share of every batch.

All of them have all images and draw the same at random. Their gradients are added up, and where something is decided,
the first process decides.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

import torch
from torch import Tensor, distributed, nn

from blurify.errors import ArgumentError

Value = TypeVar("Value")


class Team:
    """The processes of `torch.distributed` if they are `shared`; else this process alone.

    >>> Team().size
    1

    Raises:
        ArgumentError: `shared` is asked for, and `torch.distributed` is not initialized.
    """

    def __init__(self, shared: bool = False) -> None:
        if shared and not distributed.is_initialized():
            raise ArgumentError(
                "shared=True needs torch.distributed; start the script with torchrun and call "
                "torch.distributed.init_process_group() first."
            )
        self.size: int = distributed.get_world_size() if shared else 1
        self.rank: int = distributed.get_rank() if shared else 0

    @property
    def first(self) -> bool:
        """Return whether this is the process that decides and writes."""
        return self.rank == 0

    def own(self, rows: Tensor) -> Tensor:
        """Return this process's share of rows that all processes have; it may be empty."""
        return rows[self.rank :: self.size]

    def add_up(self, parameters: Iterable[nn.Parameter]) -> None:
        """Give every process the sum of all processes' gradients."""
        for parameter in parameters if self.size > 1 else ():
            own = parameter.new_zeros(parameter.shape) if parameter.grad is None else parameter.grad.contiguous()
            distributed.all_reduce(own)
            parameter.grad = own

    def decided(self, value: Value) -> Value:
        """Return the first process's value."""
        found = [value]
        if self.size > 1:
            distributed.broadcast_object_list(found)
        return found[0]

    @torch.no_grad()
    def settle(self, network: nn.Module) -> None:
        """Give every process the first one's weights, which those of others equal but for rounding."""
        for value in network.state_dict().values() if self.size > 1 else ():
            own = value.contiguous()
            distributed.broadcast(own, 0)
            value.copy_(own)

    def wait(self) -> None:
        """Wait until all are here."""
        if self.size > 1:
            distributed.barrier()
