"""The page of what is supported: the reasons to keep a site, and what the run over the zoo found."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator

from benchmarks.strangers import section
from benchmarks.zoo.ledger import STAGES, Entry, Ledger
from blurify.sites import Action, Kind, Reason

HEAD = """# Support

This page is generated from the reasons that a plan gives and from a run over every architecture of timm and
torchvision: `python -m benchmarks.zoo --jobs 2` makes the results (`benchmarks/results/zoo.jsonl`, an hour or two), and
`python -m benchmarks.zoo --support docs/support.md` makes this page from them.
"""

STRANGERS = """Networks of packages that blurify knows nothing of, with random weights, converted with `form="auto",
partial=True` and proved by `python -m benchmarks.strangers`. A network that cannot be traced whole has the number of
its converted parts in place of the front-end.
"""

STAGE_WORDS = {
    "plan": "traced and planned, on the meta device",
    "shapes": "every node's output has the original's size, at two sizes, one of them odd where the model takes one",
    "identity": "with one-tap filters the outputs are the original's, to 1e-4 in float32 or else 1e-10 in float64",
    "names": "the `state_dict` loads strictly both ways, in the same order",
}


def support(ledger: Ledger) -> str:
    """The page, from all results of the file."""
    entries = [ledger.entries[name] for name in sorted(ledger.entries)]
    parts = [
        HEAD,
        "## The run\n",
        *_run(entries),
        "\n## Sites\n",
        *_sites(entries),
        "\n## Reasons to keep a site\n",
        *_reasons(entries),
        "\n## What failed\n",
        *_failures(entries),
        "\n## Networks of other packages\n",
        STRANGERS,
        *section(),
        "\n## Families\n",
        *_families(entries),
    ]
    return "\n".join(parts) + "\n"


def _run(entries: list[Entry]) -> Iterator[str]:
    versions = sorted({tuple(entry["versions"].items()) for entry in entries})
    for each in versions:
        yield f"With {', '.join(f'{name} {version}' for name, version in each)}.\n"
    yield from _table("stage", "what holds", "architectures", "hold", "fail", "nothing to do or too large")
    for stage in STAGES:
        outcomes = [entry[stage] for entry in entries if stage in entry]
        ok = sum(o["ok"] and "skipped" not in o for o in outcomes)
        skipped = sum("skipped" in o for o in outcomes)
        failed = len(outcomes) - ok - skipped
        yield _row(stage, STAGE_WORDS[stage], len(outcomes), ok, failed, skipped)
    fronts = Counter(o["front_end"] for o in _plans(entries))
    yield "\nRecorded by " + ", ".join(f"{front}: {count}" for front, count in fronts.most_common()) + ".\n"
    yield (
        "The stages after the first include stems and patch embeddings. Architectures of 100 million parameters or "
        "more are not run in real arithmetic, and what has nothing to rewrite has nothing to prove."
    )


def _sites(entries: list[Entry]) -> Iterator[str]:
    counts = _labels(_plans(entries))
    yield from _table("kind", "rewritten", "kept")
    for kind in Kind:
        by_action = {
            action: sum(n for label, n in counts.items() if label.split()[:2] == [kind.value, action.value])
            for action in Action
        }
        if any(by_action.values()):
            yield _row(kind, by_action[Action.REWRITE], by_action[Action.KEEP])


def _reasons(entries: list[Entry]) -> Iterator[str]:
    counts: Counter[str] = Counter()
    for label, count in _labels(_plans(entries)).items():
        counts[label.split()[-1]] += count
    yield from _table("reason", "what a plan says", "sites in the zoo")
    for reason in Reason:
        yield _row(f"`{reason}`", reason.sentence, counts[reason.value])


def _failures(entries: list[Entry]) -> Iterator[str]:
    found = [(entry["model"], stage, entry[stage]) for entry in entries for stage in STAGES if stage in entry]
    failed = [(model, stage, outcome) for model, stage, outcome in found if not outcome["ok"]]
    if not failed:
        yield "Nothing."
        return
    yield from _table("architecture", "stage", "what is wrong")
    for model, stage, outcome in failed:
        cause = outcome.get("error") or f"relative errors {outcome['errors']} in {outcome['dtype']}"
        yield _row(model, stage, cause.replace("|", "\\|").replace("<", "&lt;"))


def _families(entries: list[Entry]) -> Iterator[str]:
    members: dict[str, list[Entry]] = defaultdict(list)
    for entry in entries:
        if "family" in entry.get("plan", {}):
            members[f"{entry['model'].split(':')[0]} {entry['plan']['family']}"].append(entry)
    yield "Rewritten and kept are the sites of all the architectures of a family together, stems kept.\n"
    yield from _table("family", "architectures", "rewritten", "kept", "largest identity error", "all stages hold")
    for family, group in sorted(members.items()):
        labels = _labels(_plans(group))
        rewritten, kept = Counter[str](), Counter[str]()
        for label, count in labels.items():
            kind, _, *reason = label.split()
            (kept if reason else rewritten)[reason[0] if reason else kind] += count
        holds = all(entry[stage]["ok"] for entry in group for stage in STAGES if stage in entry)
        yield _row(family, len(group), _counts(rewritten), _counts(kept), _largest_error(group), _word(holds))


def _largest_error(group: list[Entry]) -> str:
    outcomes = [entry["identity"] for entry in group if "errors" in entry.get("identity", {})]
    largest = max((max(o.get("float32", o["errors"])) for o in outcomes), default=None)
    statistics = " up to statistics" if any(o.get("statistics") for o in outcomes) else ""
    return "" if largest is None else f"{largest:.0e}{statistics}"


def _word(holds: bool) -> str:
    return "yes" if holds else "no"


def _counts(counts: Counter[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))


def _plans(entries: Iterable[Entry]) -> list[Entry]:
    return [entry["plan"] for entry in entries if entry.get("plan", {}).get("ok")]


def _labels(plans: Iterable[Entry]) -> Counter[str]:
    labels: Counter[str] = Counter()
    for plan in plans:
        labels.update(plan["sites"])
    return labels


def _table(*titles: str) -> Iterator[str]:
    yield _row(*titles)
    yield "|" + "---|" * len(titles)


def _row(*cells: object) -> str:
    return f"| {' | '.join(str(cell) for cell in cells)} |"
