"""Bad input: exit code, one clear sentence, no traceback, and the folder as it was."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

import blurify
from blurify.cli import session
from blurify.files import native

ARCH = "timm:test_resnet"


class Forked(nn.Module):
    """A model whose path depends on its values: it cannot be traced."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, stride=2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x) if x.sum() > 0 else self.conv(-x)


class RunsACommand:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch canary",)


def _text(path: Path, tiny: nn.Module) -> None:
    path.write_text("not a model\n" * 20)


def _truncated(path: Path, tiny: nn.Module) -> None:
    torch.save(tiny, path)
    path.write_bytes(path.read_bytes()[:5000])


def _renamed(path: Path, tiny: nn.Module) -> None:
    torch.save({"my_" + key: value for key, value in tiny.state_dict().items()}, path)


def _weights(path: Path, tiny: nn.Module) -> None:
    torch.save(tiny.state_dict(), path)


def _existing(path: Path, tiny: nn.Module) -> None:
    _weights(path, tiny)
    path.with_name("m.blur4.pt").write_bytes(b"precious")


def _native(changes: dict[str, object]) -> Callable[[Path, nn.Module], None]:
    """Write a converted file with changes: of the recipe, of one decision, or of the whole."""

    def write(path: Path, tiny: nn.Module) -> None:
        plan = blurify.plan(tiny)
        content = native.to_content(plan.apply(tiny), plan, ARCH)
        decisions = json.loads(content["recipe"]["plan"])
        last = next(d for d in reversed(decisions["decisions"]) if d["action"] == "rewrite")
        for key, value in changes.items():
            place = next((part for part in (content["recipe"], last) if key in part), content)
            place[key] = value
        if "plan" not in changes:
            content["recipe"]["plan"] = json.dumps(decisions)
        torch.save(content, path)

    return write


def _shadowing(path: Path, tiny: nn.Module) -> None:
    tiny.conv1[0].forward = nn.ReLU
    torch.save(tiny, path)


FORKED = f"{Forked.__module__}.Forked"
PLAN = "m.pt cannot be rebuilt: this text is no plan of blurify: "
Write = Callable[[Path, nn.Module], object] | None

# name, what m.pt holds, arguments, the beginning of the sentence, a later part of it
CASES: list[tuple[str, Write, list[str], str, str]] = [
    ("missing", None, ["m.pt"], "There is no file m.pt; ", "check the name"),
    ("missing in a missing folder", None, ["no/m.pt"], "There is no file no/m.pt; ", "check the name"),
    (
        "bare name",
        None,
        ["resnet18"],
        "There is no file resnet18; ",
        "did you mean timm:resnet18 or torchvision:resnet18",
    ),
    ("folder", lambda p, m: p.mkdir(), ["m.pt"], "m.pt is a folder, not a model file; ", "give the file"),
    ("empty", lambda p, m: p.touch(), ["m.pt"], "m.pt is empty; ", "copy it again"),
    ("truncated", _truncated, ["m.pt"], "m.pt is a truncated or damaged zip archive; ", "copy it again"),
    ("text", _text, ["m.pt"], "m.pt is a text file, not a file that torch.save wrote; ", "give a .pt or .pth file"),
    (
        "no arch",
        _weights,
        ["m.pt"],
        "m.pt holds a state_dict, which is weights without an architecture; ",
        "--arch timm:",
    ),
    (
        "unknown arch",
        _weights,
        ["m.pt", "--arch", "timm:resnet19"],
        "timm has no architecture 'resnet19'; ",
        "timm:resnet18",
    ),
    ("unknown source", None, ["timm:resnet19"], "timm has no architecture 'resnet19'; ", "did you mean timm:resnet18"),
    (
        "other keys",
        _renamed,
        ["m.pt", "--arch", ARCH],
        f"m.pt does not fit {ARCH}: 92 missing (conv1.0.weight, ",
        "92 unexp",
    ),
    (
        "malicious",
        lambda p, m: torch.save(RunsACommand(), p),
        ["m.pt"],
        "m.pt asks to run posix.system; ",
        "nothing in it was",
    ),
    ("stranger", lambda p, m: torch.save(Forked(), p), ["m.pt"], f"m.pt needs {FORKED}, ", f"add --allow {FORKED}."),
    (
        "no convolution",
        None,
        ["torch.nn:Flatten"],
        "torch.nn:Flatten has no convolution or pooling that shrinks ",
        "give a conv",
    ),
    (
        "no convolution, another size",
        None,
        ["torch.nn:Linear?in_features=10&out_features=2"],
        "torch.nn:Linear?in_features=10&out_features=2 has no convolution or pooling that shrinks ",
        "give a conv",
    ),
    (
        "untraceable",
        lambda p, m: torch.save(Forked(), p),
        ["m.pt", "--allow", FORKED],
        "Forked cannot be traced, at ",
        "x.sum() > 0",
    ),
    (
        "channels",
        _weights,
        ["m.pt", "--arch", ARCH, "--input-size", "5,64,64"],
        "m.pt does not accept one input of ",
        "3 chan",
    ),
    (
        "rank",
        _weights,
        ["m.pt", "--arch", ARCH, "--input-size", "3,64"],
        "m.pt does not accept one input of size 3,64: ",
        "--in",
    ),
    ("no such folder", None, [ARCH, "-o", "no/m.pt"], "The output's folder no does not exist; ", "make it"),
    ("output a folder", None, [ARCH, "-o", "."], "The output . is a folder; ", "name a file in it with -o"),
    (
        "output the input",
        _weights,
        ["m.pt", "--arch", ARCH, "-o", "../here/m.pt", "--force"],
        "The output ../here/m.pt is",
        "inpu",
    ),
    ("output exists", _existing, ["m.pt", "--arch", ARCH], "The output m.blur4.pt exists already; ", "--force"),
    ("arch twice", None, [ARCH, "--arch", ARCH], f"{ARCH} is an architecture; --arch ", "Remove --arch"),
    (
        "pretrained file",
        _weights,
        ["m.pt", "--pretrained"],
        "Pretrained weights go with a name such as timm:",
        "m.pt names a file",
    ),
    *(
        (f"native {name}", _native(changes), ["m.pt"], begins, contains)
        for name, changes, begins, contains in [
            ("plan", {"plan": '{"version": 1, "decisions": [[]]}'}, f"{PLAN}decision 0 is a list", "convert the model"),
            ("deep plan", {"plan": "[" * 10**5}, f"{PLAN}it is nested too deeply; ", "convert the model again"),
            (
                "stride",
                {"stride": "2"},
                f"{PLAN}in decision ",
                "stride must be a list of integers, one per axis, got '2'",
            ),
            ("filter", {"filt_size": [10**9] * 2}, f"{PLAN}decision ", "which is too many"),
            ("padding", {"pad_type": "x"}, f"{PLAN}in decision ", "pad_type 'x' is unknown; use one of refl"),
            ("landing", {"landing": "conv1.0"}, "m.pt cannot be rebuilt: The plan blurs ", "plan this model again"),
            ("output", {"landing": "output"}, "m.pt cannot be rebuilt: The plan blurs ", "plan this model again"),
            ("arch", {"arch": "nothing"}, "'nothing' is not an architecture; ", "package.module:factory"),
            ("version", {"version": True}, "m.pt is in blurify's format but its version is True", "convert the model"),
            ("weights", {"state_dict": {5: 1}}, "m.pt is in blurify's format but its weights have the name 5", "conve"),
            ("numbers", {"state_dict": {"a": 1}}, "m.pt is in blurify's format but its weight 'a' is 1", "convert the"),
        ]
    ),
    (
        "shadowing",
        _shadowing,
        ["m.pt"],
        "m.pt puts torch.nn.modules.activation.ReLU in the place of ",
        "at 'conv1.0.for",
    ),
    ("pattern", None, [ARCH, "--exclude", "layr*"], "exclude pattern 'layr*' matches no site of this model", "nearest"),
]


def _everything(folder: Path) -> dict[str, bytes | None]:
    return {str(path): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


# What is said about the output is for the command that writes one.
BOTH = [("convert", *case) for case in CASES] + [("plan", *case) for case in CASES if "output" not in case[3]]


@pytest.mark.parametrize(
    ("command", "write", "arguments", "begins", "contains"),
    [(case[0], *case[2:]) for case in BOTH],
    ids=[f"{case[0]}-{case[1]}" for case in BOTH],
)
def test_one_sentence_and_nothing_written(
    run, tiny: nn.Module, tmp_path: Path, monkeypatch, command, write: Write, arguments, begins: str, contains: str
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    if write is not None:
        write(Path("m.pt"), tiny)
    before = _everything(tmp_path)
    result = run(command, *arguments)
    assert result.exit_code == 1, result.output
    assert result.stderr.startswith(f"Error: {begins}")
    assert contains in result.stderr
    assert result.stderr.count("\n") == 1
    assert result.stderr.endswith(".\n")
    assert "Traceback" not in result.output
    assert result.stdout == ""
    assert _everything(tmp_path) == before


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--filt-size", "0"], "'0' is not a size from 1 up, nor PATTERN=SIZE such as 'layer1.*=3'."),
        (["--filt-size", "2.5"], "'2.5' is not a size from 1 up"),
        (["--filt-size", "layer1.*="], "'layer1.*=' is not a size from 1 up"),
        (["--filt-size", "=3"], "'=3' is not a size from 1 up"),
        (["--filt-size", "3", "--filt-size", "4"], "The size of '*' is given twice."),
        (["--strength", "1.5"], "'1.5' is not a strength from 0 to 1, nor PATTERN=STRENGTH as in 'layer1.*=.5'."),
        (["--strength", "nan"], "'nan' is not a strength from 0 to 1"),
        (["--strength", "layer1.*=-1"], "'layer1.*=-1' is not a strength from 0 to 1"),
        (["--strength", ".3", "--strength", "1"], "The strength of '*' is given twice."),
        (["--input-size", "3"], "'3' is not channels and sizes, such as 3,224,224."),
        (["--input-size", "3,0,4"], "'3,0,4' is not channels and sizes"),
        (["--input-size", "a,b,c"], "'a,b,c' is not channels and sizes"),
        (["--pad-type", "mirror"], "'mirror' is not one of 'reflect', 'replicate', 'zero', 'zero-renorm', 'circular'."),
        (["--max-size", "much"], "'much' is not a size such as 500MB"),
        (["--max-size", "4"], "'4' has no unit; write 4GB (10^9 bytes each) or 4GiB (2^30 bytes)."),
        (["--nope"], "No such option '--nope'."),
        (["second.pt"], "Got unexpected extra argument (second.pt)"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_command_line_that_makes_no_sense_is_a_usage_error(run, tmp_path: Path, arguments, sentence: str) -> None:
    result = run("convert", "m.pt", *arguments)
    assert result.exit_code == 2
    assert sentence in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_an_unwritable_folder_is_found_out_before_the_work(run, tmp_path: Path, monkeypatch) -> None:
    def refuse(path: Path, *_: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    def slow(*_: object) -> None:
        raise AssertionError("the model was read before the output was checked")

    monkeypatch.setattr(session, "open_model", slow)
    monkeypatch.setattr(Path, "open", refuse)  # permission bits would not stop a test that runs as root
    result = run(ARCH)
    assert result.exit_code == 1
    assert result.stderr == "Error: . cannot be written to: Permission denied; name another folder with -o.\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_write_permission(run, tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o555)
    result = run(ARCH, "-o", "locked/m.pt")
    assert result.exit_code == 1
    assert result.stderr == "Error: locked cannot be written to: Permission denied; name another folder with -o.\n"
