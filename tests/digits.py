"""The shipped classifier's digits as files, for commands that read images."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image

from blurify import demo


def write_digits(folder: Path, count: int) -> None:
    """The classifier as `net.pt`, and below `digits` so many images of 44 pixels in a folder a class."""
    model, pictures, labels = demo.load_demo()
    torch.save(model, folder / "net.pt")
    for number, (picture, label) in enumerate(zip(pictures[:count], labels[:count].tolist(), strict=True)):
        path = folder / "digits" / str(label) / f"{number:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((picture[0] * 255).to(torch.uint8).numpy()).resize((44, 44)).save(path)
