"""Who is told how a run goes on."""

from __future__ import annotations

from typing import Protocol

from blurify.zoo.settings import Record


class Watcher(Protocol):
    """Is told what begins, and what became of each model."""

    def begin(self, stage: str, total: int) -> None:
        """So many models are about to be weighed, planned or converted."""

    def started(self, name: str) -> None:
        """Note that a worker took this model."""

    def ended(self, name: str, record: Record) -> None:
        """This became of it."""


class Silent:
    """Tells nobody."""

    def begin(self, stage: str, total: int) -> None:
        """Say nothing."""

    def started(self, name: str) -> None:
        """Say nothing."""

    def ended(self, name: str, record: Record) -> None:
        """Say nothing."""
