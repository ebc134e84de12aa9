"""`blurify MODEL` and `blurify plan MODEL`, on real networks."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import warnings
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from torch import nn

import blurify
from blurify.cli import session
from blurify.errors import FileError
from blurify.files import save_onnx, save_program
from blurify.measure.cost import cost
from blurify.verifying import proving
from blurify.verifying.verdict import Verdict, Weights

ARCH = "timm:test_resnet"


def _listing(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_name_is_converted_into_the_current_folder(run, tmp_path: Path) -> None:
    result = run(ARCH)
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    assert _listing(tmp_path) == ["test_resnet.blur4.pt"]
    lines = result.stdout.splitlines()
    assert lines[0].split() == ["site", "kind", "stride", "filter", "what", "is", "done"]
    assert any(line.startswith("layer2.0.conv1 ") and "rewritten, blur after layer2.0.aa" in line for line in lines)
    assert any(line.startswith("conv1.0 ") and "kept: fed by the model's input" in line for line in lines)
    assert "arithmetic 0.103 -> 0.139 GMAC (+35.9 %) for one input of 3x160x160" in lines
    assert [line.split()[1] for line in lines if line.split()[0] in ("identity", "shapes", "weights")] == ["ok"] * 3
    assert lines[-1] == "wrote test_resnet.blur4.pt (recipe and weights; read it with blurify.load)"


def test_a_state_dict_is_converted_beside_itself(run, tiny: nn.Module, tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    torch.save({"state_dict": tiny.state_dict()}, tmp_path / "models" / "net.pth")
    result = run("convert", "models/net.pth", "--arch", ARCH, "--filt-size", 3, "--input-size", "3,64,64")
    assert result.exit_code == 0, result.output
    assert _listing(tmp_path / "models") == ["net.blur3.pt", "net.pth"]
    assert "for one input of 3x64x64" in result.stdout
    picture = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    expected = blurify.antialias(tiny, 3)(picture)
    assert torch.equal(blurify.load(tmp_path / "models" / "net.blur3.pt")(picture), expected)


def test_a_pickled_module_becomes_a_pickled_module(run, tiny: nn.Module, tmp_path: Path) -> None:
    torch.save(tiny, tmp_path / "net.pt")
    result = run("net.pt", "-o", "out.bin", "--input-size", "3x64x64")
    assert result.exit_code == 0, result.output
    assert result.stdout.endswith("wrote out.bin (a pickled module; read it with torch.load and weights_only=False)\n")
    converted = torch.load(tmp_path / "out.bin", weights_only=False)
    picture = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    assert torch.equal(converted(picture), blurify.antialias(tiny)(picture))
    again = run("out.bin", "--input-size", "3x64x64")
    assert again.exit_code == 0, again.output
    assert "already antialiased. Nothing was written." in again.stdout
    assert _listing(tmp_path) == ["net.pt", "out.bin"]


def test_sizes_by_pattern(run, tmp_path: Path) -> None:
    result = run(ARCH, "--filt-size", "5", "--filt-size", "layer2.*=3", "--no-verify")
    assert result.exit_code == 0, result.output
    assert _listing(tmp_path) == ["test_resnet.blur.pt"]
    sizes = {d.site: d.filt_size for d in blurify.load("test_resnet.blur.pt").meta["blurify"].rewritten}
    assert sizes["layer2.0.conv1"] == (3, 3)
    assert sizes["layer3.0.conv2"] == (5, 5)
    assert "identity" not in result.stdout


def test_strengths_by_pattern(run) -> None:
    result = run(ARCH, "--filt-size", "3", "--strength", ".5", "--strength", "layer2.*=0", "-o", "net.pt")
    assert result.exit_code == 0, result.output
    assert "a strength of 0 asks for no blur here" in result.stdout
    strengths = {d.site: d.strength for d in blurify.load("net.pt").meta["blurify"].rewritten}
    assert "layer2.0.conv1" not in strengths
    assert strengths["layer3.0.conv2"] == 0.5


def test_filters_by_pattern(run, tmp_path: Path) -> None:
    result = run(ARCH, "--filter", "lanczos", "--filter", "layer2.*=1,2,1", "--filter", "maxpool=halfband")
    assert result.exit_code == 0, result.output
    assert _listing(tmp_path) == ["test_resnet.blur.pt"]
    assert "filter    lanczos 11 at stride 2 (" in result.stdout
    assert "folded energy" in result.stdout
    kinds = {
        d.site: (d.filter, max(d.filt_size)) for d in blurify.load("test_resnet.blur.pt").meta["blurify"].rewritten
    }
    assert kinds["layer2.0.conv1"] == ("taps", 3)
    assert kinds["layer3.0.conv2"] == ("lanczos", 11)
    assert kinds["maxpool"] == ("halfband", 7)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--filter", "box"), "filter 'box' is unknown; use one of binomial"),
        (("--filter", "auto"), "filter 'auto' is unknown; use one of binomial"),
        (("--filter", "1,-1"), "Taps must have a positive sum"),
        (("--filter", "nan,1"), "Taps must be finite numbers"),
        (("--filter", "lanczos", "--filt-size", "4"), "The lanczos filter has sizes 3, 7, 11, 15 and so on; got 4"),
        (("--filter", "ideal"), "use pad_type='circular' (--pad-type circular)"),
        (("--filter", "lanczos", "--filter", "kaiser"), "The filter of '*' is given twice"),
    ],
)
def test_what_is_no_filter(run, tmp_path: Path, options: tuple[str, ...], message: str) -> None:
    result = run(ARCH, *options)
    assert result.exit_code in (1, 2)
    assert message in " ".join(result.output.split())
    assert "Traceback" not in result.output
    assert _listing(tmp_path) == []


def test_the_name_of_the_output_has_the_filter(run, tmp_path: Path) -> None:
    assert run(ARCH, "--filter", "halfband", "--no-verify").exit_code == 0
    assert _listing(tmp_path) == ["test_resnet.blurhalfband7.pt"]


def test_no_strength_anywhere_is_nothing_to_do(run, tmp_path: Path) -> None:
    result = run(ARCH, "--strength", "0")
    assert result.exit_code == 0, result.output
    assert "a strength of 0 asks for no blur here" in result.stdout
    assert "Nothing was written." in result.stdout
    assert _listing(tmp_path) == []


def test_every_choice_reaches_the_plan(run) -> None:
    options = ("--stem", "--pad-type", "zero", "--exclude", "layer3.*", "--exclude", "layer4.*", "--json")
    plan = blurify.Plan.from_json(run("plan", ARCH, *options).stdout)
    assert plan == blurify.plan(
        session.files.build_architecture(ARCH), pad_type="zero", stem=True, exclude=("layer3.*", "layer4.*")
    )
    assert "conv1.0" in [decision.site for decision in plan.rewritten]
    only = blurify.Plan.from_json(run("plan", ARCH, "--include", "maxpool", "--json").stdout)
    assert [decision.site for decision in only.rewritten] == ["maxpool"]


def test_plan_prints_only_json_and_writes_nothing(run, tmp_path: Path) -> None:
    result = run("plan", ARCH, "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout)["decisions"]
    assert result.stderr == ""
    assert _listing(tmp_path) == []


def test_plan_prints_the_table_and_a_count(run, tmp_path: Path) -> None:
    result = run("plan", "torchvision:squeezenet1_1", "--filt-size", 2)
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[-1] == "3 of 4 sites are rewritten, 1 kept"
    assert _listing(tmp_path) == []


def test_a_second_conversion_says_nothing_to_do(run, tmp_path: Path) -> None:
    assert run(ARCH, "--no-verify").exit_code == 0
    result = run("test_resnet.blur4.pt")
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[-1].startswith("nothing to do: ")
    assert "already antialiased. Nothing was written." in result.stdout
    assert result.stderr == ""
    assert _listing(tmp_path) == ["test_resnet.blur4.pt"]
    assert "already antialiased." in run("plan", "test_resnet.blur4.pt").stdout


def test_a_model_whose_sites_are_all_kept_says_why(run, tmp_path: Path) -> None:
    result = run("timm:test_vit")
    assert result.exit_code == 0, result.output
    assert "nothing to do: each of the 1 sites" in result.stdout
    assert "patches that do not overlap" in result.stdout
    assert _listing(tmp_path) == []


def test_force_overwrites(run, tmp_path: Path) -> None:
    (tmp_path / "out.pt").write_bytes(b"old")
    assert run(ARCH, "-o", "out.pt", "--force", "--no-verify").exit_code == 0
    assert blurify.load(tmp_path / "out.pt").meta["blurify"].rewritten


def test_failed_proofs_write_nothing(run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def verify(*_: object, **__: object) -> Verdict:
        return Verdict(1.0, 1e-4, (), Weights(3, ()))

    monkeypatch.setattr(proving, "verify", verify)
    result = run(ARCH)
    assert result.exit_code == 1
    assert "identity  FAILED" in result.stdout
    assert result.stderr == f"Error: The proofs failed for {ARCH}; nothing was written.\n"
    assert _listing(tmp_path) == []


def test_a_factory_in_the_current_folder_is_found(run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    (tmp_path / "blurify_test_nets.py").write_text("from timm.models import test_resnet as build\n")
    torch.save(session.files.build_architecture(ARCH).state_dict(), tmp_path / "w.pt")
    result = run("w.pt", "--arch", "blurify_test_nets:build", "--no-verify")
    assert result.exit_code == 0, result.output
    assert sys.path[-1] == str(tmp_path)  # last: a file here must not stand in for an installed package
    sys.modules.pop("blurify_test_nets")


ONE_SIZE = """
from torch import nn

class OneSize(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1))

    def forward(self, x):
        if x.shape[-1] != 48:
            raise ValueError("wrong size")
        return self.body(x)

def hooked():
    model = nn.Sequential(nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.MaxPool2d(2)))
    model[0].register_forward_hook(print)
    return model
"""


@pytest.fixture
def own_nets(run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    (tmp_path / "own_nets.py").write_text(ONE_SIZE)
    yield
    sys.modules.pop("own_nets", None)


def test_a_model_of_one_size_converts_and_loads(run, own_nets: None, tmp_path: Path) -> None:
    from_factory = ("--arch", "own_nets:OneSize", "--input-size", "3,48,48")
    sys.path.append(str(tmp_path))
    torch.save(__import__("own_nets").OneSize().state_dict(), tmp_path / "w.pt")
    result = run("w.pt", *from_factory)
    assert result.exit_code == 0, result.output
    loaded = blurify.load("w.blur4.pt", allow=["own_nets:OneSize"])
    assert loaded(torch.zeros(4, 3, 48, 48)).shape == (4, 8, 24, 24)


def test_lost_hooks_are_said(run, own_nets: None, tmp_path: Path) -> None:
    sys.path.append(str(tmp_path))
    torch.save(__import__("own_nets").hooked().state_dict(), tmp_path / "w.pt")
    result = run("w.pt", "--arch", "own_nets:hooked", "--form", "graph")
    assert result.exit_code == 0, result.output
    assert result.stderr.startswith("Note: hooks of '0' in Sequential are not carried over")


# Imported sooner than a library of networks, and as wide.
LONG_NAMES = """
from collections import OrderedDict
from torch import nn

def net():
    pools = [(f"a_stage_with_a_name_of_some_length_{n}", nn.MaxPool2d(2)) for n in range(3)]
    return nn.Sequential(OrderedDict([("conv", nn.Conv2d(3, 4, 3)), *pools]))
"""


def test_a_pipe_gets_whole_lines_without_colour(tmp_path: Path) -> None:
    (tmp_path / "long_names.py").write_text(LONG_NAMES)
    torch.save(nn.Sequential(OrderedDict(conv=nn.Conv2d(3, 4, 3))).state_dict(), tmp_path / "w.pt")
    command = [sys.executable, "-m", "blurify", "plan", "w.pt", "--arch", "long_names:net", "--filt-size", "3"]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
        env={
            "COLUMNS": "40",
            "TERM": "xterm-256color",
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(Path(blurify.__file__).parents[1]),
        },
    )
    assert "\x1b" not in done.stdout
    assert done.stderr == ""
    sites = [f"a_stage_with_a_name_of_some_length_{number}" for number in range(3)]
    assert [line.split()[0] for line in done.stdout.splitlines()[1:-1]] == sites
    assert all(line == line.rstrip() for line in done.stdout.splitlines())


def test_cost_leaves_modes_as_found_and_counts_what_is_known() -> None:
    model = torchvision.models.resnet18().train()
    model.bn1.eval()
    price = cost(model, torch.zeros(1, 3, 224, 224))
    assert price.macs == pytest.approx(1.814e9, rel=1e-3)
    assert model.training
    assert not model.bn1.training


def test_cost_of_a_model_that_hands_on_views_of_parameters() -> None:
    model = timm.create_model("pit_ti_224")
    assert cost(model, torch.zeros(1, 3, 224, 224)).macs > 4e8
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_cost_of_a_model_that_looks_at_values() -> None:
    class Fussy(nn.Conv2d):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) if x.sum().item() != 1 else x

    assert cost(Fussy(3, 4, 1), torch.zeros(1, 3, 8, 8)).macs == 3 * 4 * 64


@pytest.mark.parametrize("asked", [("--keep-class",), ("--form", "class"), ("--form", "auto")])
def test_the_class_can_be_kept(run, asked: tuple[str, ...], tmp_path: Path) -> None:
    result = run(ARCH, *asked, "-o", "kept.pt")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert [line.split()[1] for line in lines if line.split()[0] in ("identity", "shapes", "weights")] == ["ok"] * 3
    assert lines[-1] == "wrote kept.pt (recipe and weights; read it with blurify.load)"
    assert type(blurify.load(tmp_path / "kept.pt")).__module__ == "timm.models.resnet"


def test_a_class_that_cannot_be_kept_is_refused_whole(run, tmp_path: Path) -> None:
    architecture = "timm:levit_128s"
    result = run(architecture, "--keep-class")
    assert result.exit_code == 1
    assert result.stderr.startswith(
        "Error: LevitDistilled cannot keep its class, since modules cannot express 2 of its 5 sites: "
    )
    assert _listing(tmp_path) == []


def test_where_a_class_cannot_be_kept_a_graph_takes_its_place(run, tmp_path: Path) -> None:
    result = run("timm:levit_128s", "--form", "auto", "--no-verify", "-o", "auto.pt")
    assert result.exit_code == 0, result.output
    assert "the result is a graph: LevitDistilled cannot keep its class, since modules cannot express" in result.stderr


def test_where_a_class_cannot_be_kept_what_can_be_is_done(run, tmp_path: Path) -> None:
    result = run("timm:levit_128s", "--keep-class", "--partial", "--no-verify")
    assert result.exit_code == 0, result.output
    assert result.stdout.count("no module can be changed for it") == 2


def test_a_program_is_written_by_its_suffix(run, tmp_path: Path) -> None:
    result = run(ARCH, "-o", "net.pt2", "--no-verify", "--input-size", "3,96,96")
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[-1] == "wrote net.pt2 (a program; read it with torch.export.load)"
    assert torch.export.load("net.pt2").module()(torch.zeros(3, 3, 96, 96)).shape == (3, 1000)
    result = run(ARCH, "--dynamic-size")
    assert result.exit_code == 2
    assert "name a *.pt2 or *.onnx with -o." in result.stderr
    assert _listing(tmp_path) == ["net.pt2"]


def test_an_onnx_graph_is_written(run, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    result = run(ARCH, "-o", "net.onnx", "--no-verify", "--input-size", "3,64,64")
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[-1] == "wrote net.onnx (an ONNX graph, checked by onnx.checker)"
    assert (tmp_path / "net.onnx").stat().st_size > 100_000


def test_a_format_is_asked_for_by_its_name(run, tmp_path: Path) -> None:
    result = run(ARCH, "--format", "module", "--no-verify", "--input-size", "3,64,64")
    assert result.exit_code == 0, result.output
    assert "a pickled module" in result.stdout
    result = run(ARCH, "--format", "pt2", "--no-verify", "--input-size", "3,64,64")
    assert result.exit_code == 0, result.output
    assert _listing(tmp_path) == ["test_resnet.blur4.pt", "test_resnet.blur4.pt2"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("-o", "a.onnx", "--format", "pt2"), "is named as one of --format onnx, but --format pt2 is asked for"),
        (("--format", "module", "--dynamic-size"), "--dynamic-size is for programs"),
    ],
)
def test_formats_that_do_not_go_together_are_refused(run, arguments, message: str, tmp_path: Path) -> None:
    result = run(ARCH, *arguments)
    assert result.exit_code != 0
    assert message in result.stderr
    assert _listing(tmp_path) == []


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("program") / "net.pt2"
    save_program(timm.create_model("test_resnet").eval(), path, torch.randn(1, 3, 64, 64))
    return path


def test_a_program_becomes_a_program(run, program: Path, tmp_path: Path) -> None:
    shutil.copy(program, tmp_path / "program.bin")
    result = run("program.bin")
    assert result.exit_code == 0, result.output
    assert "an exported program has one mode" in result.stderr
    assert "for a batch of 2 inputs of 3x64x64" in result.stdout
    assert [line.split()[1] for line in result.stdout.splitlines() if line[:6] in ("identi", "shapes", "weight")] == [
        "ok"
    ] * 3
    assert result.stdout.endswith("wrote program.blur4.pt2 (a program; read it with torch.export.load)\n")
    before, after = torch.export.load(program), torch.export.load(tmp_path / "program.blur4.pt2")
    assert list(before.state_dict) == list(after.state_dict)
    x = torch.randn(3, 3, 64, 64)
    assert not torch.allclose(before.module()(x), after.module()(x))
    result = run("program.blur4.pt2", "-o", "again.pt2")
    assert "program.blur4.pt2 is already antialiased" in result.stdout
    assert _listing(tmp_path) == ["program.bin", "program.blur4.pt2"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--keep-class",), "is a program, which has no class to keep; write --form graph."),
        (("--arch", ARCH), "is an exported program, which needs no --arch timm:test_resnet; remove it"),
        (("--input-size", "3,96,96"), "is a program, which says itself what it takes"),
        (("--dynamic-size",), "its dynamic shapes are kept"),
        (("--format", "native"), "The name of the model's architecture is not known"),
    ],
)
def test_what_a_program_does_not_have_is_said(run, program: Path, arguments, message: str, tmp_path: Path) -> None:
    shutil.copy(program, tmp_path / "net.pt2")
    result = run("net.pt2", *arguments)
    assert result.exit_code != 0
    assert message in result.stderr
    assert _listing(tmp_path) == ["net.pt2"]


def test_a_program_is_no_converted_model_to_load(program: Path) -> None:
    with pytest.raises(FileError, match=r"net\.pt2 is a torch\.export archive, which is a program .*; convert it with"):
        blurify.load(program)


def test_torchscript_becomes_a_program(run, tmp_path: Path) -> None:
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.MaxPool2d(2))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(net).save("net.ts")
    result = run("net.ts", "--input-size", "1,16,16")
    assert result.exit_code == 0, result.output
    assert result.stdout.endswith("wrote net.blur4.pt2 (a program; read it with torch.export.load)\n")
    assert list(torch.export.load("net.blur4.pt2").state_dict) == ["0.weight", "0.bias"]


def test_onnx_becomes_onnx(run, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    save_onnx(nn.Sequential(nn.Conv2d(1, 4, 3), nn.MaxPool2d(2)).eval(), Path("net.onnx"), torch.randn(1, 1, 16, 16))
    result = run("net.onnx")
    assert result.exit_code == 0, result.output
    assert result.stdout.endswith("wrote net.blur4.onnx (an ONNX graph, checked by onnx.checker)\n")
    result = run("net.blur4.onnx", "--force")
    assert "net.blur4.onnx is already antialiased" in result.stdout
    assert _listing(tmp_path) == ["net.blur4.onnx", "net.onnx"]
