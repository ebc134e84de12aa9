"""The results on disk: one JSON object a line, appended as they come, so that no crash loses more than one.

Lines of one model at the same versions add up, stage by stage, the later over the earlier.
"""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import blurify

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
        if path.exists():
            for line in path.read_text().splitlines():
                self._merge(parsed(line))

    def _merge(self, entry: Entry) -> None:
        if not entry:
            return
        known = self.entries.get(entry["model"], {})
        self.entries[entry["model"]] = known | entry if known.get("versions") == entry["versions"] else entry

    def record(self, model: str, stage: str, outcome: Entry) -> None:
        """Append one outcome, on disk before this returns."""
        entry = {"model": model, "versions": self.versions, stage: outcome}
        self._merge(entry)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a") as file:
            file.write(json.dumps(entry) + "\n")

    def outcome(self, model: str, stage: str) -> Entry | None:
        """What the stage gave at the current versions, if it was run."""
        entry = self.entries.get(model, {})
        return entry.get(stage) if entry.get("versions") == self.versions else None

    def compact(self) -> None:
        """Rewrite the file with one line a model, sorted."""
        lines = [json.dumps(_ordered(self.entries[model])) for model in sorted(self.entries)]
        draft = self.path.with_suffix(".draft")
        draft.write_text("".join(line + "\n" for line in lines))
        draft.replace(self.path)


def parsed(line: str) -> Entry:
    """The line's object, or an empty one of a line that is not whole."""
    try:
        return json.loads(line)
    except ValueError:
        # The last line of a run that was killed while it wrote.
        return {}


def _ordered(entry: Entry) -> Entry:
    return {key: entry[key] for key in ("model", "versions", *STAGES) if key in entry}
