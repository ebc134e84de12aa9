"""Make the index by which weights are told which architecture they are of: `python -m benchmarks.architectures`."""

from __future__ import annotations

import gzip
import json
import warnings

import timm
import torch
from torchvision import models

from blurify.errors import BlurifyError
from blurify.files.architecture import build_architecture
from blurify.files.guessing import INDEX, shapes_of, sketch


def main() -> None:
    warnings.simplefilter("ignore")
    names = [f"timm:{name}" for name in timm.list_models()] + [f"torchvision:{name}" for name in models.list_models()]
    found: dict[str, list[str]] = {}
    for name in names:
        try:
            with torch.device("meta"):
                state = build_architecture(name).state_dict()
        except (BlurifyError, RuntimeError) as error:
            print(f"{name} is left out: {error}")
            continue
        found.setdefault(sketch(shapes_of(state)), []).append(name)
    text = json.dumps(dict(sorted(found.items())), separators=(",", ":"))
    INDEX.write_bytes(gzip.compress(text.encode(), mtime=0))
    print(f"{sum(map(len, found.values()))} architectures, {len(found)} sketches, {INDEX.stat().st_size} bytes")


if __name__ == "__main__":
    main()
