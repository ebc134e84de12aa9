"""What was fitted so far, in a file, so that an interrupted fit goes on where it was."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from blurify.errors import FileError
from blurify.files.atomic import write_atomically
from blurify.recovery.calls import Skip
from blurify.recovery.fits import LayerFit

# Writing takes a moment, and so do most layers.
SECONDS_BETWEEN = 30.0


class Journal:
    """Keeps layers that are done and all weights; without a path it keeps nothing, without `write` it only reads."""

    def __init__(self, path: Path | None, network: nn.Module, mark: str = "", write: bool = True) -> None:
        self.path, self.network, self.mark = path if write else None, network, mark
        self.done: dict[str, LayerFit] = {}
        self._written = time.monotonic()
        if path is not None and path.exists():
            self._read(path)

    def add(self, fit: LayerFit) -> None:
        """Note a layer, and write if it is time to."""
        self.done[fit.layer] = fit
        if self.path is not None and time.monotonic() - self._written > SECONDS_BETWEEN:
            self.write()

    def write(self) -> None:
        """Write all there is."""
        if self.path is None:
            return
        fits = [asdict(fit) | {"skip": fit.skip and fit.skip.value} for fit in self.done.values()]
        content = {"fits": fits, "weights": self.network.state_dict(), "mark": self.mark}
        write_atomically(self.path, lambda file: torch.save(content, file))
        self._written = time.monotonic()

    def remove(self) -> None:
        """Remove the file: all is done."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)

    def _read(self, path: Path) -> None:
        try:
            content: dict[str, Any] = torch.load(path, weights_only=True)
            self.network.load_state_dict(content["weights"])
            fits = [LayerFit(**fit | {"skip": fit["skip"] and Skip(fit["skip"])}) for fit in content["fits"]]
            mark = content["mark"]
        except Exception as error:  # whatever a broken file makes torch raise
            raise FileError(f"{path} is no journal of this network's recovery; remove it to begin anew.") from error
        check_mark(path, mark, self.mark)
        self.done = {fit.layer: fit for fit in fits}


def check_mark(path: Path, found: object, wanted: str) -> None:
    """Refuse a file that another recovery left."""
    if found != wanted:
        raise FileError(
            f"{path} was left by a recovery with other weights, blurs, pictures, labels, seed, epochs or rate; "
            "repeat that one's command, or remove the file to begin anew."
        )
