"""Pictures shared out to several processes, as `torchrun` starts them, and their answers brought together again.

Whole batches are shared out, and what is drawn at random is looked up by an image's number, so every number comes out
as in one process.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import distributed

from blurify.errors import ArgumentError, BlurifyError

Value = TypeVar("Value")
# A process that has failed must not keep the others waiting for half an hour.
PATIENCE = timedelta(minutes=10)


def started() -> int:
    """Return how many processes were started together, this one among them.

    >>> started()
    1
    """
    return int(os.environ.get("WORLD_SIZE", "1")) if "RANK" in os.environ else 1


@contextmanager
def processes() -> Iterator[None]:
    """Join the other processes, if `torchrun` started several."""
    if started() == 1:
        yield
        return
    # Of CPUs and of GPUs, each by its own backend.
    distributed.init_process_group(timeout=PATIENCE)
    try:
        yield
    finally:
        distributed.destroy_process_group()


def rank() -> int:
    """Return the number of this process, from 0."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def own_share(items: Sequence[Value]) -> Sequence[Value]:
    """Of a list that all processes have, those that are this one's.

    >>> own_share([1, 2, 3])
    [1, 2, 3]
    """
    world = distributed.get_world_size() if distributed.is_initialized() else 1
    return items[rank() :: world]


def own_device(device: str) -> str:
    """Return the device for this process: of several of one kind, one each.

    >>> own_device("cpu")
    'cpu'
    """
    if device != "cuda" or not distributed.is_initialized():
        return device
    return f"cuda:{int(os.environ.get('LOCAL_RANK', '0')) % max(torch.cuda.device_count(), 1)}"


def everybodys(value: Value | BlurifyError) -> list[Value]:
    """Gather every process's value, in order, in every process; an error in one is raised in all.

    >>> everybodys(3)
    [3]

    Raises:
        BlurifyError: a process failed.
    """
    values: list[Any] = [value]
    if distributed.is_initialized():
        values = [None] * distributed.get_world_size()
        distributed.all_gather_object(values, str(value) if isinstance(value, BlurifyError) else [value])
        values = [ArgumentError(found) if isinstance(found, str) else found[0] for found in values]
    for found in values:
        if isinstance(found, BlurifyError):
            raise value if isinstance(value, BlurifyError) else found
    return values
