"""Where the commands run their networks."""

from __future__ import annotations

from torch import nn

from blurify.errors import ArgumentError, one_line


def put(model: nn.Module, device: str) -> None:
    """Move the model there, in place.

    Raises:
        ArgumentError: there is no such device, or it holds no values.
    """
    if device.split(":")[0] == "meta":
        raise ArgumentError("--device meta has no values to compare; give one that computes, such as cpu.")
    try:
        model.to(device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        fact = one_line(error)
        raise ArgumentError(f"--device {device} cannot be used: {fact}.") from error
