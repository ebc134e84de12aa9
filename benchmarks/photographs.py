"""Photographs without labels, from packages that hold some, and crops of them; half of them are never calibrated on.

scikit-image and scikit-learn ship a few; Debian's packages of wallpapers ship large ones, and `apt-get download` gets
those without installing them. Where there is no apt, the few have to do, and figures say how many there were.
"""

from __future__ import annotations

import importlib.util
import subprocess
from collections.abc import Iterator
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

DATA = Path(__file__).parent / "results" / "photographs"
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# Photographs alone: these packages hold drawings too.
DEBIAN = {
    "lomiri-wallpapers-16.04": """Bridge_by_Sander_Klootwijk Dragonfly_by_Bolly Picture_0B_by_freespace
        Picture_1A_by_freespace Wine_by_Jakkub_Mede aitzgorri_by_Aitzol_Berasategi free_by_Peter_Nerlich
        friends_by_Aitzol_Berasategi greentock_by_Peter_Nerlich life_by_Aitzol_Berasategi
        picosdeeuropa_by_Aitzol_Berasategi seeding_by_Clements_Engelhardt sunset_by_Aitzol_Berasategi""",
    "mate-backgrounds": """Aqua Blinds Dune Garden GreenMeadow LadyBird RainDrops Storm TwoWings Wood YellowFlower""",
    "plasma-workspace-wallpapers": "FallenLeaf DarkestHour EveningGlow ColorfulCups OneStandsOut BytheWater Grey",
}
PYTHON = {
    "skimage": "astronaut.png chelsea.png coffee.png rocket.jpg motorcycle_left.png retina.jpg hubble_deep_field.jpg",
    "sklearn": "china.jpg flower.jpg",
}


def find() -> list[Path]:
    """Every photograph that can be had here, in an order that mixes where they are from."""
    found = [path for package, names in PYTHON.items() for path in _python(package, names.split())]
    found += [path for package, names in DEBIAN.items() for path in _debian(package, names.split())]
    return sorted(found, key=lambda path: "/".join(path.parts[-4:])[::-1])


def split(photographs: list[Path]) -> tuple[list[Path], list[Path]]:
    """Those to calibrate on, and those to test on."""
    return photographs[::2], photographs[1::2]


def crops(photographs: list[Path], count: int, side: int, seed: int) -> Tensor:
    """`count` crops `[count, 3, side, side]` as networks take them, those of one photograph beside each other.

    Each is a square of random place and random width, from `side` pixels (or the shorter side, if that is less) to the
    shorter side, resized to `side`.
    """
    generator = torch.Generator().manual_seed(seed)
    shares = [count * (n + 1) // len(photographs) - count * n // len(photographs) for n in range(len(photographs))]
    cut = [
        crop for path, share in zip(photographs, shares, strict=True) for crop in _crops(path, share, side, generator)
    ]
    pixels = torch.stack(cut).permute(0, 3, 1, 2) / 255
    return (pixels - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]


def _crops(path: Path, count: int, side: int, generator: torch.Generator) -> Iterator[Tensor]:
    with Image.open(path) as opened:
        image = opened.convert("RGB")
    shortest = min(image.size)
    for _ in range(count):
        share, x, y = torch.rand(3, generator=generator).tolist()
        least = min(side, shortest)
        width = least * (shortest / least) ** share
        left, top = x * (image.width - width), y * (image.height - width)
        box = (left, top, left + width, top + width)
        small = image.resize((side, side), Image.Resampling.BICUBIC, box=box, reducing_gap=3.0)
        yield torch.frombuffer(bytearray(small.tobytes()), dtype=torch.uint8).view(side, side, 3)


def _python(package: str, names: list[str]) -> list[Path]:
    home = importlib.util.find_spec(package)
    if home is None or home.origin is None:
        return []
    folders = (Path(home.origin).parent / "data", Path(home.origin).parent / "datasets" / "images")
    return [folder / name for folder in folders for name in names if (folder / name).exists()]


def _debian(package: str, names: list[str]) -> list[Path]:
    folder = DATA / package
    if not folder.exists():
        _download(package, folder)
    paths = [path for path in folder.rglob("*.jpg") if path.stem in names or path.stem == "2560x1600"]
    return [path for path in paths if path.stem in names or path.parts[-4] in names]


def _download(package: str, folder: Path) -> None:
    folder.mkdir(parents=True)
    try:
        subprocess.run(["apt-get", "download", package], cwd=folder, check=True, capture_output=True, timeout=300)
        (archive,) = folder.glob("*.deb")
        subprocess.run(["dpkg-deb", "-x", archive.name, "."], cwd=folder, check=True, capture_output=True, timeout=300)
        archive.unlink()
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        print(f"{package} is not to be had here: {error}")
