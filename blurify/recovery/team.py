"""One training in several processes, as `accelerate launch` and `torchrun` start them: each has a share of every batch.

All of them have all pictures and draw the same at random. Their gradients are added up, and where something is decided,
the first process decides.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from torch import Tensor, nn

from blurify.errors import ArgumentError, ArgumentTypeError

Value = TypeVar("Value")


def started() -> int:
    """How many processes were started together, this one among them."""
    return int(os.environ.get("WORLD_SIZE", "1")) if "RANK" in os.environ else 1


@contextmanager
def accelerated(device: str) -> Iterator[Any]:
    """The accelerator of the processes that were started together; None if this one is alone.

    Raises:
        ArgumentError: there are several, and accelerate is not installed.
    """
    if started() == 1:
        yield None
        return
    try:
        from accelerate import Accelerator
    except ImportError as error:
        raise ArgumentError(
            f"{started()} processes were started, and accelerate, by which they share a training, is not installed; "
            "pip install 'blurify[accelerate]', or start one process."
        ) from error
    accelerator = Accelerator(cpu=device == "cpu")
    try:
        yield accelerator
    finally:
        accelerator.end_training()


class Team:
    """The processes of an `accelerate.Accelerator`; without one, or with one of one process, this process alone.

    >>> Team().size
    1
    """

    def __init__(self, accelerator: Any = None) -> None:
        if accelerator is not None and not hasattr(accelerator, "num_processes"):
            kind = type(accelerator).__name__
            raise ArgumentTypeError(f"accelerator must be an accelerate.Accelerator, got {kind}.")
        self.size: int = 1 if accelerator is None else accelerator.num_processes
        self.rank: int = 0 if self.size == 1 else accelerator.process_index
        self._accelerator = accelerator

    @property
    def first(self) -> bool:
        """Whether this is the process that decides and writes."""
        return self.rank == 0

    def own(self, rows: Tensor) -> Tensor:
        """Of rows that all processes have, those that are this one's; there may be none."""
        return rows[self.rank :: self.size]

    def add_up(self, parameters: Iterable[nn.Parameter]) -> None:
        """Give every process the sum of all processes' gradients."""
        if self.size == 1:
            return
        for parameter in parameters:
            own = parameter.new_zeros(parameter.shape) if parameter.grad is None else parameter.grad
            parameter.grad = self._accelerator.reduce(own, "sum")

    def decided(self, value: Value) -> Value:
        """The first process's value."""
        if self.size == 1:
            return value
        from accelerate.utils import broadcast_object_list

        found: list[Value] = broadcast_object_list([value])
        return found[0]

    def settle(self, network: nn.Module) -> None:
        """Give every process the first one's weights, which those of others equal but for rounding."""
        if self.size == 1:
            return
        from accelerate.utils import broadcast

        network.load_state_dict({name: broadcast(value) for name, value in network.state_dict().items()})

    def wait(self) -> None:
        """Wait until all are here."""
        if self.size > 1:
            self._accelerator.wait_for_everyone()
