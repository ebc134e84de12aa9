"""The results on disk: one JSON object a line, appended as they come, so that no crash loses more than one.

Lines of one model at the same versions add up, stage by stage, the later over the earlier.
"""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import blurify
from blurify.files.atomic import write_atomically
from blurify.zoo.ledger import append_line, cut_broken_line, read_lines

STAGES = ("plan", "shapes", "identity", "names")
Entry = dict[str, Any]


def current_versions() -> dict[str, str]:
    """What a result depends on."""
    return {"blurify": blurify.__version__} | {name: version(name) for name in ("torch", "torchvision", "timm")}


class Ledger:
    """The results of one file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.versions = current_versions()
        self.entries: dict[str, Entry] = {}
        for entry in read_lines(path):
            self._merge(entry)

    def _merge(self, entry: Entry) -> None:
        known = self.entries.get(entry["model"], {})
        self.entries[entry["model"]] = known | entry if known.get("versions") == entry["versions"] else entry

    def begin(self) -> None:
        """Make the file ready for new lines."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        cut_broken_line(self.path)

    def record(self, model: str, stage: str, outcome: Entry) -> None:
        """Append one outcome, on disk before this returns."""
        entry = {"model": model, "versions": self.versions, stage: outcome}
        self._merge(entry)
        append_line(self.path, entry)

    def outcome(self, model: str, stage: str) -> Entry | None:
        """What the stage gave at the current versions, if it was run."""
        entry = self.entries.get(model, {})
        return entry.get(stage) if entry.get("versions") == self.versions else None

    def compact(self) -> None:
        """Rewrite the file with one line a model, sorted."""
        lines = [json.dumps(_ordered(self.entries[model])) for model in sorted(self.entries)]
        content = "".join(line + "\n" for line in lines).encode()
        write_atomically(self.path, lambda file: file.write(content))


def _ordered(entry: Entry) -> Entry:
    return {key: entry[key] for key in ("model", "versions", *STAGES) if key in entry}
