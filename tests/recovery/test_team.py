"""Two processes share a training: both end with the weights that one finds, and one of them writes and speaks."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from torch import Tensor

import blurify
from blurify import demo
from blurify.cli import recover_run
from blurify.cli.group import cli
from blurify.errors import ArgumentError
from blurify.recovery.recover import Recovered
from tests.digits import write_digits

# The command itself, which leaves what each process found beside what it writes.
COMMAND = """
import os, torch
from blurify.cli import main, recover_run
recover = recover_run.recover

def kept(*args, **kwargs):
    found = recover(*args, **kwargs)
    torch.save(found.model.state_dict(), f"rank{os.environ.get('RANK', '')}.pt")
    return found

recover_run.recover = kept
main()
"""
NETWORK = "--allow blurify.demo.classifier.DigitNet --allow blurify.demo.classifier.Block"
OPTIONS = f"recover net.pt {NETWORK} --images digits --input-size 1,40,40 --shift 4 --mean 0 --std 1 --filt-size 4"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The classifier as a file, and a few digits in a folder a class."""
    write_digits(tmp_path, 42)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
def test_two_processes_find_what_one_finds(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "command.py").write_text(COMMAND)
    # 22 images are trained on, so that of the last batch one process has none.
    options = [*OPTIONS.split(), *"--method distill --labels --fine-tune --batch-size 7 --rounds 1".split()]
    starter = "-m torch.distributed.run --nproc-per-node 2 command.py".split()
    done = subprocess.run(
        [sys.executable, *starter, *options, "-o", "two.pt"],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(blurify.__file__).parents[1])},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("wrote two.pt") == done.stdout.count("agreement is with the original") == 1
    assert {path.name for path in folder.iterdir()} == {
        "command.py", "digits", "net.pt", "rank0.pt", "rank1.pt", "two.pt"
    }  # fmt: skip
    one = alone(options, monkeypatch)
    first, second = (torch.load(folder / f"rank{rank}.pt") for rank in (0, 1))
    carried = demo.load_demo()[0].state_dict()
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    # Features are compared in units of their energy, which differs from share to share.
    moved, apart = (sum(float((one[n] - other[n]).square().sum()) for n in one) for other in (carried, first))
    assert apart < 0.1 * moved


def alone(options: list[str], monkeypatch: pytest.MonkeyPatch) -> dict[str, Tensor]:
    """The weights that this process finds by itself."""
    found: list[Recovered] = []
    recover = recover_run.recover
    monkeypatch.setattr(
        recover_run, "recover", lambda *args, **kwargs: found.append(recover(*args, **kwargs)) or found[0]
    )
    result = CliRunner().invoke(cli, [*options, "-o", "one.pt"])
    assert "recovered from 28 images" in result.stdout
    return found[0].model.state_dict()


@pytest.mark.parametrize("options", ["--method lstsq", "--method all --min-agreement 90"])
def test_what_is_not_shared_out_is_refused(folder: Path, options: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    monkeypatch.setenv("RANK", "1")
    result = CliRunner().invoke(cli, [*OPTIONS.split(), "-o", "out.pt", *options.split()])
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: Only --method distill and all")


def test_sharing_needs_other_processes() -> None:
    model, pictures, _ = demo.load_demo()
    with pytest.raises(ArgumentError, match=r"shared=True needs torch\.distributed; start the script with torchrun"):
        blurify.recover(model, blurify.antialias(model), pictures[:8], method="distill", shared=True)
