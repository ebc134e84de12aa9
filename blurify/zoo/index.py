"""Write the index of a folder: `index.csv` for programs, and a sortable `index.html` for people."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path

from blurify import pages
from blurify.files.atomic import write_atomically
from blurify.zoo.ledger import Ledger
from blurify.zoo.settings import Record
from blurify.zoo.storage import place

Cell = str | int | float | None

_COLUMNS: dict[str, Callable[[Record], Cell]] = {
    "model": lambda r: r["model"],
    "status": lambda r: r["status"],
    "rewritten": lambda r: r.get("sites", {}).get("rewrite"),
    "kept": lambda r: r.get("sites", {}).get("keep"),
    "parameters": lambda r: r.get("parameters"),
    "gmac_before": lambda r: _giga(r, 0),
    "gmac_after": lambda r: _giga(r, 1),
    "identity_error": lambda r: r.get("proofs", {}).get("identity_error"),
    "consistency_before": lambda r: _measured(r, 0, "consistency"),
    "consistency_after": lambda r: _measured(r, -1, "consistency"),
    "agreement": lambda r: _measured(r, -1, "agreement"),
    "error_carried": lambda r: r["recovered"]["errors"]["carried"] if "recovered" in r else None,
    "error_recovered": lambda r: min(r["recovered"]["errors"].values()) if "recovered" in r else None,
    "seconds": lambda r: r.get("seconds"),
    "peak_gb": lambda r: round(r["peak_memory"] / 1e9, 2) if "peak_memory" in r else None,
    "attempt": lambda r: r.get("attempt"),
    "files": lambda r: " ".join(name for name in r.get("files", {}) if name.startswith("model.")) or None,
    "folder": lambda r: place(r["model"]) if "files" in r else None,
    "reason": lambda r: r.get("error") or r.get("reason") or "; ".join([*lacking(r), *r.get("notes", [])]) or None,
}
_TEXTS = ("model", "status", "files", "folder", "reason")


def write(folder: Path, ledger: Ledger) -> None:
    """Write both tables of all that the ledger has, each whole or not at all.

    >>> write(Path("converted"), Ledger(Path("converted/ledger.jsonl")))
    """
    records = [ledger.models[name] for name in sorted(ledger.models)]
    for name, text in (("index.csv", as_csv(records)), ("index.html", as_html(records, folder.name))):
        content = text.encode()
        write_atomically(folder / name, lambda file, content=content: file.write(content))  # type: ignore[misc]


def as_csv(records: list[Record]) -> str:
    """Return one line a model, after a line of titles.

    >>> as_csv([]).strip().split(",")[:2]
    ['model', 'status']
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_COLUMNS)
    writer.writerows([column(record) for column in _COLUMNS.values()] for record in records)
    return text.getvalue()


def as_html(records: list[Record], title: str) -> str:
    """Return a page that needs no other file and no network; `#seconds` behind its address sorts by that column.

    >>> as_html([], "converted").splitlines()[0]
    '<!doctype html>'
    """
    statuses = [record["status"] for record in records]
    counts = ", ".join(f"{statuses.count(status)} {status}" for status in sorted(set(statuses)))
    summary = f"{len(records)} models: {counts}." if records else "No model yet."
    rows = [{name: column(record) for name, column in _COLUMNS.items()} for record in records]
    # A column that no record fills is left out.
    shown = [name for name in _COLUMNS if any(row[name] is not None for row in rows)]
    return pages.render("index.html", title=title, summary=summary, columns=shown, texts=_TEXTS, rows=rows)


def _measured(record: Record, which: int, figure: str) -> float | None:
    """In percent, of the original (0) or of what was written (-1)."""
    networks = list(record.get("measured", {}).get("networks", {}).values())
    return round(networks[which][figure]["percent"], 2) if networks else None


def lacking(record: Record) -> list[str]:
    """List the missing files of a record besides the model itself, with the reasons.

    >>> lacking({"missing": {"onnx": "it has no such operator"}})
    ['no onnx: it has no such operator']
    """
    return [f"no {what}: {reason}" for what, reason in record.get("missing", {}).items()]


def _giga(record: Record, which: int) -> float | None:
    return round(record["macs"][which] / 1e9, 3) if "macs" in record else None
