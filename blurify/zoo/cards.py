"""Files next to a converted model: its plan, a `config.json` like the hub's, and a model card."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from blurify.files import FORMATS
from blurify.measure.estimate import Estimate
from blurify.planning.plan import Plan
from blurify.zoo.settings import CONVERTED, Record, Settings

_CARD = """---
library_name: {library}
tags:
- image-classification
- {library}
- antialiasing
- blurify
{license}---

# {title}, antialiased

{subject} with every downsampling rewritten into blur-then-subsample (filters of {taps}), as in Zhang, "Making
Convolutional Networks Shift-Invariant Again" (ICML 2019). Made by `blurify zoo`; the weights are {weights}.

| | |
|---|---|
| rewritten sites | {rewrite} |
| kept sites | {keep} |
| parameters | {parameters:,} |
{facts}
```python
import blurify

model = blurify.load("model.pt")
```

`plan.json` says what was done at every site, `report.json` what was proved and the SHA-256 of every file.
{advice}"""

_KEPT = """# {title}

{reason}

There is no converted model here for that reason. `plan.json` has every site that was found.
"""

_ADVICE = """
The weights were learnt without the blurs, so the model usually wants fine-tuning with a small learning rate, or at
least fresh batch-norm statistics.
"""


def write(folder: Path, name: str, settings: Settings, model: nn.Module, plan: Plan, facts: Record) -> None:
    """Write `plan.json`, `config.json` and `README.md`.

    >>> write(Path("resnet18"), "timm:resnet18", Settings(), model, plan, {"status": "converted", ...})
    """
    texts = {
        "plan.json": plan.to_json(),
        "config.json": json.dumps(config(name, settings, model, facts), indent=1),
        "README.md": card(name, settings, model, facts),
    }
    for file, text in texts.items():
        (folder / file).write_text(text.rstrip() + "\n", encoding="utf-8")


def config(name: str, settings: Settings, model: nn.Module, facts: Record) -> dict[str, Any]:
    """Return the fields that timm's own `config.json` has, and what blurify did.

    >>> config("timm:resnet18", Settings(), model, {})["architecture"]
    'resnet18'
    """
    pretrained = _plain(getattr(model, "pretrained_cfg", None) or {})
    fallback = name.partition(":")[2].partition(".")[0]
    return {
        "architecture": pretrained.pop("architecture", None) or fallback,
        "num_classes": getattr(model, "num_classes", None),
        "num_features": getattr(model, "num_features", None),
        "model_args": _plain(getattr(model, "_model_args", {})),
        "pretrained_cfg": pretrained,
        "blurify": settings.as_json() | {"model": name, "arch": facts.get("arch"), "sites": facts.get("sites")},
    }


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Reduce a value to what JSON can hold."""
    kinds = (str, int, float, bool, list, tuple, dict)
    return {key: value for key, value in values.items() if isinstance(value, kinds) and key != "state_dict"}


def card(name: str, settings: Settings, model: nn.Module, facts: Record) -> str:
    """Return the model card, in Markdown with the hub's front matter.

    >>> card("timm:resnet18", Settings(), model, facts).splitlines()[0]
    '---'
    """
    library, _, title = name.partition(":")
    if facts["status"] != CONVERTED:
        return _KEPT.format(title=title, reason=facts["reason"])
    terms = (getattr(model, "pretrained_cfg", None) or {}).get("license") if settings.pretrained else None
    return _CARD.format(
        library="torchvision" if library == "torchvision" else "timm",
        license=f"license: {terms}\n" if terms else "",
        title=title,
        subject=f"`{name}`",
        taps=_taps(settings),
        weights=_weights(settings, facts),
        parameters=facts["parameters"],
        **facts["sites"],
        facts=_facts(facts),
        advice=_others(facts) + (_ADVICE if settings.pretrained and "recovered" not in facts else ""),
    )


def _taps(settings: Settings) -> str:
    """Return the filters in words, such as "4 taps" or "3 taps at layer1.*, 5 taps at strength 0.5"."""
    spec = settings.spec()
    sizes, strengths = spec.filt_sizes, spec.strengths
    kinds = ", ".join(str(each) + (f" at {pattern}" if pattern != "*" else "") for pattern, each in spec.filters)
    said = ", ".join(f"{size} taps" + (f" at {pattern}" if pattern != "*" else "") for pattern, size in sizes)
    said = said if settings.filter == "binomial" else ", ".join(filter(None, (kinds, said)))
    weaker = [f"{each:g}" + (f" at {pattern}" if pattern != "*" else "") for pattern, each in strengths]
    return said if strengths == (("*", 1.0),) else f"{said} at strength {', '.join(weaker)}"


def _weights(settings: Settings, facts: Record) -> str:
    origin = "the pretrained ones" if settings.pretrained else "random"
    if "recovered" not in facts:
        return f"{origin}, unchanged" if settings.pretrained else origin
    found = facts["recovered"]
    return f"{origin}, those of {found['layers']} layers refitted without labels to {found['pictures']} images"


def _others(facts: Record) -> str:
    others = [form for form in facts.get("formats", []) if form != "native"]
    lines = [f"- `model{FORMATS[form].suffix}`: {FORMATS[form].description}." for form in others]
    lines += [f"- There is no {what}: {reason}." for what, reason in facts.get("missing", {}).items()]
    return "\n" + "\n".join(lines) + "\n" if lines else ""


def _facts(facts: Record) -> str:
    before, after = (count / 1e9 for count in facts["macs"])
    size = "x".join(map(str, facts["input_size"]))
    proofs = facts["proofs"]
    identity = f"{proofs['identity_error']:.1e} relative, {proofs['tolerance']:.0e} allowed"
    proved = (
        f"| GMAC at {size} | {before:.3f} before, {after:.3f} after |\n"
        f"| identity with one-tap filters | {identity} |\n"
        f"| sites that keep their output size | {proofs['shapes']} |\n"
        f"| parameters and buffers equal to the original's | {proofs['weights']} |\n"
    )
    return proved + "".join(f"| {title} | {value} |\n" for title, value in _on_pictures(facts))


def _on_pictures(facts: Record) -> Iterator[tuple[str, str]]:
    if "recovered" in facts:
        errors = facts["recovered"]["errors"]
        yield "error of the outputs on held-out images", ", ".join(f"{e:.3g} {step}" for step, e in errors.items())
    if "measured" in facts:
        for figure in ("consistency", "agreement"):
            title = f"{figure} under shifts" if figure == "consistency" else f"{figure} with the original"
            found = {name: Estimate(**each[figure]) for name, each in facts["measured"]["networks"].items()}
            yield title, ", ".join(f"{value} {name}" for name, value in found.items())
