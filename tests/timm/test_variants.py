"""`blur_` variants in timm's registry: made, listed, loaded, trained and saved by timm's own code."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from inspect import signature
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from PIL import Image
from timm.data import create_dataset, create_loader, resolve_data_config
from timm.loss import LabelSmoothingCrossEntropy
from timm.models import FeatureListNet, load_checkpoint
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.utils import AverageMeter, CheckpointSaver, ModelEmaV3, accuracy, dispatch_clip_grad

import blurify
import blurify.timm
from blurify.errors import ArgumentError, NoEffectWarning
from blurify.timm.__main__ import main
from blurify.timm.antialiased import OPTIONS
from tests.conftest import randomize_statistics, run

X = torch.randn(2, 3, 96, 96, generator=torch.Generator().manual_seed(0))
NAME = "blur_test_resnet"


@pytest.fixture(scope="module", autouse=True)
def _registered() -> Iterator[None]:
    before = timm.list_models(), timm.list_models(pretrained=True), timm.list_modules()
    blurify.timm.register()
    yield
    blurify.timm.unregister()
    assert (timm.list_models(), timm.list_models(pretrained=True), timm.list_modules()) == before


def make(name: str, **options: Any) -> Any:
    torch.manual_seed(0)
    return timm.create_model(name, **options)


def test_a_variant_is_what_antialias_makes_of_the_original() -> None:
    made = make(NAME, num_classes=7, blur_filt_size=3, blur_stem=True)
    original = make("test_resnet", num_classes=7)
    assert type(made) is type(original)
    assert made.training
    # timm draws the same weights as ever.
    assert torch.equal(made.fc.weight, original.fc.weight)
    expected = blurify.antialias(original, 3, stem=True, keep_class=True)
    assert torch.equal(run(made, X), run(expected, X))
    assert not torch.equal(run(made, X), run(original, X))
    made.reset_classifier(4)
    assert made.get_classifier().out_features == 4


def test_the_registry_knows_variants_as_models_of_its_own() -> None:
    blurify.timm.register()
    names = timm.list_models("blur_*")
    assert names == timm.list_models(module="antialiased")
    assert {name.removeprefix("blur_") for name in names} == set(timm.list_models(exclude_filters="blur_*"))
    tags = timm.list_models("test_resnet", pretrained=True)
    assert timm.list_models(NAME, pretrained=True) == [f"blur_{tag}" for tag in tags] != []
    for tag in ("", ".r160_in1k"):
        mine, theirs = (make(f"{name}{tag}").pretrained_cfg for name in (NAME, "test_resnet"))
        # What timm saves by this name, it makes again by it; the weights are the original's.
        assert mine == theirs | {"architecture": NAME}
        assert mine["hf_hub_id"] == "timm/test_resnet.r160_in1k"
    with pytest.raises(RuntimeError, match="Invalid pretrained tag"):
        make(f"{NAME}.none")


def test_weights_come_from_where_the_originals_do(tmp_path: Path) -> None:
    original = randomize_statistics(make("test_resnet"))
    torch.save(original.state_dict(), tmp_path / "weights.pth")
    overlay = {"file": str(tmp_path / "weights.pth")}
    made = make(NAME, pretrained=True, pretrained_cfg_overlay=overlay, num_classes=1000)
    assert all(map(torch.equal, original.state_dict().values(), made.state_dict().values()))
    other = make(NAME, checkpoint_path=tmp_path / "weights.pth")
    assert torch.equal(run(other, X), run(made, X))


def test_a_folder_of_timms_makes_it_again(tmp_path: Path) -> None:
    made = randomize_statistics(make(NAME, num_classes=7, blur_filt_size=3))
    timm.models.save_for_hf(made, tmp_path, model_args=made._model_args)
    assert json.loads((tmp_path / "config.json").read_text())["architecture"] == NAME
    again = timm.create_model(f"local-dir:{tmp_path}", pretrained=True)
    assert torch.equal(run(again, X), run(made, X))


@pytest.mark.parametrize("how", ["list", "getter"])
def test_feature_pyramids(how: str) -> None:
    made = make(NAME, features_only=True, out_indices=(1, 3), feature_cls=how).eval()
    original = make("test_resnet", features_only=True, out_indices=(1, 3), feature_cls=how).eval()
    assert type(made) is type(original)
    assert made.feature_info.channels() == original.feature_info.channels()
    with torch.no_grad():
        features, others = made(X), original(X)
    assert [f.shape for f in features] == [f.shape for f in others]
    assert not torch.equal(features[-1], others[-1])


def test_features_by_hooks_are_refused() -> None:
    with pytest.raises(ArgumentError, match=f"^{NAME} takes its features by hooks, .* feature_cls='list' or 'getter'"):
        make(NAME, features_only=True, feature_cls="hook")
    assert isinstance(make(NAME, features_only=True), FeatureListNet)


def test_all_that_antialias_can_be_asked_for_can_be_asked_for() -> None:
    decided = {"model", "example_inputs", "example_kwargs", "inplace", "optimize", "form", "keep_class"}
    assert set(OPTIONS) == signature(blurify.antialias).parameters.keys() - decided


def test_options_are_checked() -> None:
    with pytest.raises(ArgumentError, match=f"^{NAME} has no option 'blur_size'; those of the blur are blur_filt_size"):
        make(NAME, blur_size=3)
    with pytest.raises(ArgumentError, match="filt_size"):
        make(NAME, blur_filt_size=0)
    with pytest.warns(NoEffectWarning):
        make("blur_test_vit")
    assert make("blur_test_vit", blur_patch_embed=True).meta["blurify"].rewritten


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Two classes of four images each: light ones and dark ones."""
    for label, base in (("dark", 0), ("light", 128)):
        (tmp_path / "pictures" / label).mkdir(parents=True)
        for index in range(4):
            noise = torch.randint(base, base + 128, (48, 48, 3), dtype=torch.uint8).numpy()
            Image.fromarray(noise).save(tmp_path / "pictures" / label / f"{index}.png")
    return tmp_path / "pictures"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_timms_own_training_loop(pictures: Path, tmp_path: Path) -> None:
    model = make(NAME, num_classes=2)
    config = resolve_data_config({"input_size": (3, 48, 48)}, model=model)
    dataset = create_dataset("", root=pictures)
    loader = create_loader(
        dataset,
        config["input_size"],
        batch_size=4,
        is_training=True,
        mean=config["mean"],
        std=config["std"],
        num_workers=0,
        use_prefetcher=False,
        re_prob=0.2,
    )
    optimizer = create_optimizer_v2(model, opt="adamw", lr=2e-3, weight_decay=0.05, layer_decay=0.9)
    scheduler, epochs = create_scheduler_v2(optimizer, sched="cosine", num_epochs=4, warmup_epochs=1, warmup_lr=1e-4)
    average = ModelEmaV3(model, decay=0.5)
    saver = CheckpointSaver(model, optimizer, model_ema=average, checkpoint_dir=str(tmp_path), max_history=1)
    loss_of, losses, means = LabelSmoothingCrossEntropy(), [], AverageMeter()
    for epoch in range(epochs):
        model.train()
        for inputs, targets in loader:
            loss = loss_of(model(inputs), targets)
            optimizer.zero_grad()
            loss.backward()
            dispatch_clip_grad(timm.models.model_parameters(model, exclude_head=True), 1.0, mode="agc")
            optimizer.step()
            average.update(model)
            losses.append(loss.item())
        scheduler.step(epoch + 1)
        inputs, targets = next(iter(loader))
        means.update(accuracy(run(average, inputs), targets)[0].item(), 4)
        saver.save_checkpoint(epoch, metric=means.avg)
    assert losses[-1] < losses[0]
    again = make(NAME, num_classes=2)
    load_checkpoint(again, tmp_path / "model_best.pth.tar", use_ema=True)
    best = torch.load(tmp_path / "model_best.pth.tar", weights_only=False)
    assert torch.equal(again.fc.weight, best["state_dict_ema"]["fc.weight"])


@pytest.fixture
def script(tmp_path: Path) -> Path:
    """A script that imports its neighbour and asks for a variant."""
    (tmp_path / "helper.py").write_text("NAME = 'blur_test_resnet'\n")
    (tmp_path / "train.py").write_text(
        "import sys, timm, helper\n"
        "if __name__ == '__main__':\n"
        "    model = timm.create_model(helper.NAME)\n"
        "    print(sys.argv, len(model.meta['blurify'].rewritten))\n"
    )
    return tmp_path / "train.py"


def test_a_script_is_run_with_the_variants_there(
    script: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(script.parent.parent)
    monkeypatch.setattr(sys, "argv", [])
    monkeypatch.setattr(sys, "path", list(sys.path))
    arguments = [f"{script.parent.name}/train.py", "--model", "x"]
    main(arguments)
    assert capsys.readouterr().out == f"{arguments} 7\n"
    del sys.modules["helper"]


@pytest.mark.slow
def test_a_script_is_run_in_a_process_of_its_own(script: Path) -> None:
    arguments = [f"{script.parent.name}/train.py", "--model", "x"]
    command = [sys.executable, "-m", "blurify.timm", *arguments]
    done = subprocess.run(command, cwd=script.parent.parent, capture_output=True, text=True, timeout=200)
    assert done.stdout == f"{arguments} 7\n", done.stderr


def test_a_script_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match=r"^Error: none.py is no file; name a script, such as timm's train.py.$"):
        main(["none.py"])
    with pytest.raises(SystemExit, match=r"^2$"):
        main([])
    assert capsys.readouterr().out.startswith("usage: python -m blurify.timm SCRIPT ARGUMENTS")
