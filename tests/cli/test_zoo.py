"""`blurify zoo`: what it says, and what it refuses in one sentence."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from rich.console import Console

from blurify import antialias
from blurify.cli import showing
from blurify.cli.group import cli
from blurify.planning.spec import ARGUMENTS, Spec
from blurify.zoo.settings import Settings
from tests.cli.conftest import Run

TINY = "tests.zoo.subjects:tiny"
RAISES = "tests.zoo.subjects:raises"
BESSEL = "tests.zoo.subjects:bessel"


def test_converts_and_says_so_and_status_says_it_again(run: Run, tmp_path: Path) -> None:
    done = run("zoo", "timm:test_vit", RAISES, TINY, "-o", "out", "--jobs", 1)
    assert done.exit_code == 1  # a model failed
    lines = done.output.splitlines()
    assert lines[0] == "weighing 3 models"
    assert "converting 3 models" in lines
    line = re.compile(rf"\d/3 \d+s {TINY}: converted, 1 sites rewritten and 0 kept, [\d.]+ s")
    assert any(map(line.fullmatch, lines))
    failed = f"  {RAISES}: failed (error): '{RAISES}' cannot be built: there is no such block"
    assert lines[-4] == "3 models: 1 converted, 1 failed, 1 kept"
    assert lines[-3].startswith(failed)
    assert re.fullmatch(r"3 in \d+ s, which is \d+ models an hour", lines[-2])
    assert lines[-1] == "see out/index.html"
    again = run("zoo", "timm:test_vit", TINY, "-o", "out")
    assert again.exit_code == 0
    assert "2 of them were there already and are whole" in again.output
    assert "an hour" not in again.output
    status = run("zoo", "status", "out").output.splitlines()
    assert status[0] == "out: filt_size 4, pretrained False, formats native"
    assert status[1:] == [*lines[-4:-2], "no run is under way"]


def test_what_is_missing_is_told_and_the_figures_are_summed_up(run: Run, tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    for number in range(4):
        Image.effect_noise((300, 300), 90 + number).save(tmp_path / "pictures" / f"{number}.png")
    done = run("zoo", BESSEL, "-o", "out", "--measure", "pictures", "--format", "onnx", "--jobs", 1)
    assert done.exit_code == 1, done.output
    assert re.search(rf"{BESSEL}: converted, .*, consistency [\d.]+ -> [\d.]+ %, [\d.]+ s, without onnx", done.output)
    assert re.search(r"\nconsistency under shifts, mean of 1: [\d.]+ -> [\d.]+ %; higher in \d of them\n", done.output)
    assert f"  {BESSEL}: no onnx: Sequential cannot be written as ONNX" in done.output
    status = run("zoo", "status", "out").output
    assert status.startswith(
        f"out: filt_size 4, pretrained False, formats native, onnx, measure {tmp_path / 'pictures'}\n"
    )
    other = run("zoo", BESSEL, "-o", "out", "--format", "onnx")
    assert f"out was begun with measure {tmp_path / 'pictures'}, not None; go on with the same" in other.output


def test_a_dry_run_writes_nothing(run: Run, tmp_path: Path) -> None:
    done = run("zoo", "test_resnet", "test_vit4", "--dry-run", "--jobs", 1, "--max-params", "0.48M")
    assert done.exit_code == 0, done.output
    assert "timm:test_resnet: converted, 7 sites rewritten and 1 kept" in done.output
    assert "timm:test_vit4: left out, 1 million parameters" in done.output
    assert "\n1 models: 1 converted\n" in done.output
    assert done.output.endswith("nothing was written\n")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["resnt18", "-o", "out"], 1, "Error: no model matches 'resnt18'; the nearest names are timm:resnet18"),
        (["test_resnet"], 2, "Error: Say where the models go with -o DIR, or see what would be done with --dry-run."),
        (
            ["test_resnet", "-o", "out", "--format", "gif"],
            1,
            "'gif' is no format of models; give one of native, ",
        ),
        (["test_resnet", "-o", "out", "--max-params", "few"], 2, "'few' is not a number of parameters, such as 30M"),
        (["test_resnet", "-o", "out", "--measure", "foreign"], 1, "There are no images in "),
        (["test_resnet", "-o", "out", "--memory", "much"], 2, "'much' is not a size such as 500MB"),
        (["test_resnet", "-o", "out", "--memory", "1KB"], 2, "'1KB' is too small; give 100MB or more."),
        (["test_resnet", "-o", "memory://zoo"], 1, "The ledger of memory://zoo must lie in a folder of this machine"),
        (["test_resnet", "-o", "file"], 1, "The output file is a file, not a folder; name a folder with -o."),
        (["test_resnet", "-o", "foreign"], 1, "foreign holds thesis.tex and no zoo.json, so it is not a zoo's"),
        (["test_resnet", "-o", "/proc/zoo"], 1, "/proc/zoo cannot be written to: No such file or directory; name"),
        (["status", "foreign"], 1, "foreign has no zoo.json, so no zoo was converted into it"),
        ([], 2, "Usage"),
    ],
)
def test_bad_input(run: Run, tmp_path: Path, arguments: list[str], code: int, said: str) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "thesis.tex").write_text("")
    before = sorted(tmp_path.rglob("*"))
    done = run("zoo", *arguments)
    assert (done.exit_code, "Traceback" in done.output) == (code, False), done.output
    assert said in done.output.replace("\n", " ")
    assert sorted(tmp_path.rglob("*")) == before


def test_the_display_shows_what_every_worker_is_on() -> None:
    console = Console(width=100, force_terminal=True, record=True)
    display = showing.Display(console)
    display.begin("converting", 3)
    display.started("timm:a")
    display.started("timm:b")
    display.ended("timm:a", {"status": "failed", "kind": "error", "error": "no"})
    console.print(display.render())
    shown = console.export_text()
    assert "timm:a: failed (error): no" in shown
    assert "converting" in shown
    assert "1/3" in shown
    assert re.search(r"1 failed\n  timm:b \(0 s\)", shown)


def test_all_commands_that_convert_share_the_options_of_a_conversion() -> None:
    zoo: Any = cli.commands["zoo"]
    usual = {option.name: option for option in cli.commands["convert"].params}
    for command in (zoo.commands["convert"], *(cli.commands[name] for name in ("plan", "convert", "recover"))):
        options = {option.name: option for option in command.params}
        assert options.keys() >= set(ARGUMENTS), command.name
        for name in ARGUMENTS:
            # `recover` alone chooses the filter by itself.
            own = {"default", "help"} if (command.name, name) == ("recover", "filter") else set()
            one, other = options[name].to_info_dict(), usual[name].to_info_dict()
            assert {k: v for k, v in one.items() if k not in own} == {k: v for k, v in other.items() if k not in own}
    assert inspect.signature(Spec.of).parameters.keys() == set(ARGUMENTS)
    assert inspect.signature(antialias).parameters.keys() > set(ARGUMENTS)
    assert Settings.__dataclass_fields__.keys() > set(ARGUMENTS)


def test_a_dry_run_with_options_says_which_patterns_match_nothing(run) -> None:
    result = run("zoo", "test_resnet", "--dry-run", "--stem", "--exclude", "layr2.*", "--filt-size", "layer1.*=3")
    assert result.exit_code == 0, result.output
    assert "note: exclude pattern 'layr2.*' matches no site of this model; the nearest" in result.stdout
