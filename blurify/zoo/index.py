"""What a folder holds, as tables: `index.csv` for programs, `index.html` for people, of itself and sortable."""

from __future__ import annotations

import csv
import html
import io
from collections.abc import Callable
from pathlib import Path

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

_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>{title}</title>
<style>
body {{ font: 14px/1.4 system-ui, sans-serif; margin: 2em; }}
table {{ border-collapse: collapse; }}
th, td {{ padding: .2em .8em .2em 0; text-align: right; vertical-align: top; }}
th {{ cursor: pointer; position: sticky; top: 0; background: Canvas; white-space: nowrap; }}
.text {{ text-align: left; }}
tr.failed td {{ color: #b00020; }}
tr.kept td {{ opacity: .6; }}
@media (prefers-color-scheme: dark) {{ :root {{ color-scheme: dark; }} tr.failed td {{ color: #ff8a80; }} }}
</style>
<h1>{title}</h1>
<p>{summary} A click on a title sorts; a second one turns the order round.</p>
<table>
<thead><tr>{head}</tr></thead>
<tbody>
{rows}
</tbody>
</table>
<script>
const heads = [...document.querySelectorAll("th")], body = document.querySelector("tbody");
let last = null, up = true;
function value(row, at) {{
  const text = row.cells[at].dataset.v ?? row.cells[at].textContent;
  return text === "" ? null : heads[at].className === "text" ? text : Number(text);
}}
function sort(at) {{
  up = last === at ? !up : true;
  last = at;
  const rows = [...body.rows].sort((a, b) => {{
    const x = value(a, at), y = value(b, at);
    if (x === null || y === null) return (x === null) - (y === null);
    return (x < y ? -1 : x > y ? 1 : 0) * (up ? 1 : -1);
  }});
  body.append(...rows);
}}
heads.forEach((head, at) => head.addEventListener("click", () => sort(at)));
const wanted = heads.findIndex(head => "#" + head.id === location.hash);
if (wanted >= 0) sort(wanted);
</script>
</html>
"""


def write(folder: Path, ledger: Ledger) -> None:
    """Write both tables of all that the ledger has, each whole or not at all.

    >>> write(Path("converted"), Ledger(Path("converted/ledger.jsonl")))
    """
    records = [ledger.models[name] for name in sorted(ledger.models)]
    for name, text in (("index.csv", as_csv(records)), ("index.html", as_html(records, folder.name))):
        content = text.encode()
        write_atomically(folder / name, lambda file, content=content: file.write(content))  # type: ignore[misc]


def as_csv(records: list[Record]) -> str:
    """One line a model, after a line of titles.

    >>> as_csv([]).strip().split(",")[:2]
    ['model', 'status']
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_COLUMNS)
    writer.writerows([column(record) for column in _COLUMNS.values()] for record in records)
    return text.getvalue()


def as_html(records: list[Record], title: str) -> str:
    """A page that needs no other file and no network; `#seconds` behind its address sorts by that column.

    >>> as_html([], "converted").splitlines()[0]
    '<!doctype html>'
    """
    statuses = [record["status"] for record in records]
    counts = ", ".join(f"{statuses.count(status)} {status}" for status in sorted(set(statuses)))
    # What nothing was asked of would be a column of nothing.
    shown = [name for name, column in _COLUMNS.items() if any(column(record) is not None for record in records)]
    head = "".join(f'<th id="{name}"{_kind(name)} title="sort by this">{name.replace("_", " ")}</th>' for name in shown)
    return _PAGE.format(
        title=html.escape(title),
        summary=f"{len(records)} models: {counts}." if records else "No model yet.",
        head=head,
        rows="\n".join(_row(record, shown) for record in records),
    )


def _row(record: Record, shown: list[str]) -> str:
    cells = "".join(_cell(name, _COLUMNS[name](record)) for name in shown)
    return f'<tr class="{html.escape(record["status"])}">{cells}</tr>'


def _cell(name: str, value: Cell) -> str:
    if value is None:
        return f"<td{_kind(name)}></td>"
    if name == "folder":
        link = html.escape(str(value))
        return f'<td class="text"><a href="{link}/README.md">{link}</a></td>'
    if isinstance(value, str):
        return f"<td{_kind(name)}>{html.escape(value)}</td>"
    return (
        f'<td data-v="{value}">{value:,}</td>' if isinstance(value, int) else f'<td data-v="{value}">{value:.3g}</td>'
    )


def _kind(name: str) -> str:
    return ' class="text"' if name in _TEXTS else ""


def _measured(record: Record, which: int, figure: str) -> float | None:
    """In percent, of the original (0) or of what was written (-1)."""
    networks = list(record.get("measured", {}).get("networks", {}).values())
    return round(networks[which][figure]["percent"], 2) if networks else None


def lacking(record: Record) -> list[str]:
    """What of all that was asked for beside the model itself is not there, and why.

    >>> lacking({"missing": {"onnx": "it has no such operator"}})
    ['no onnx: it has no such operator']
    """
    return [f"no {what}: {reason}" for what, reason in record.get("missing", {}).items()]


def _giga(record: Record, which: int) -> float | None:
    return round(record["macs"][which] / 1e9, 3) if "macs" in record else None
