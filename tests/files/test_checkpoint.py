"""What training scripts write: the weights are found by what fits, the averaged ones on request, the rest is left."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from blurify.errors import ArchitectureError, ArgumentError, FileError
from blurify.files import read_model
from blurify.files.checkpoint import Part
from blurify.files.fitting import fitting

ARCH = "timm:test_resnet"


@pytest.fixture
def ema(tiny: nn.Module) -> nn.Module:
    """The same network with other weights."""
    twin = copy.deepcopy(tiny)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.mul_(0.5)
    return twin


def _named(prefix: str, model: nn.Module) -> dict[str, Tensor]:
    return {prefix + name: value for name, value in model.state_dict().items()}


def _reads(path: Path, expected: nn.Module, picture: Tensor, *, ema: bool = False) -> str:
    """Check that the file gives `expected` and stays as it is; tell what was taken."""
    before = path.read_bytes()
    loaded = read_model(path, arch=ARCH, ema=ema)
    assert torch.equal(loaded.model(picture), expected(picture))
    assert path.read_bytes() == before
    return loaded.taken


def test_a_lightning_module_s_other_parts_are_left(tiny: nn.Module, picture: Tensor, tmp_path: Path) -> None:
    optimizer = torch.optim.AdamW(tiny.parameters())
    tiny(picture).sum().backward()
    optimizer.step()
    content = {
        "epoch": 1,
        "state_dict": {**_named("net.backbone.", tiny), "criterion.weight": torch.ones(3)},
        "optimizer_states": [optimizer.state_dict()],
        "hyper_parameters": {"lr": 0.1},
        "callbacks": {"ModelCheckpoint": {"best_model_score": torch.tensor(0.5)}},
    }
    torch.save(content, tmp_path / "last.ckpt")
    taken = _reads(tmp_path / "last.ckpt", tiny, picture)
    assert taken == "the weights are those under 'state_dict' and named 'net.backbone.*'"


@pytest.mark.parametrize("prefix", ["", "module.", "net."])
def test_parts_in_parallel_are_named_as_the_architecture_has_them(
    prefix: str, tiny: nn.Module, picture: Tensor, tmp_path: Path
) -> None:
    state = {prefix + name.replace(".", ".module.", 1): value for name, value in tiny.state_dict().items()}
    torch.save({"state_dict": state}, tmp_path / "last.pth")
    _reads(tmp_path / "last.pth", tiny, picture)


@pytest.mark.parametrize(
    "content",
    [
        lambda last, ema: {"state_dict": _named("", last), "state_dict_ema": _named("", ema)},
        lambda last, ema: {
            "model_ema": {"n_averaged": torch.tensor(3), **_named("module.", ema)},
            "model": _named("", last),
        },
        lambda last, ema: {"ema": _named("module.", ema), "model_state_dict": _named("module.", last)},
        lambda last, ema: {"state_dict": {**_named("ema_model.module.", ema), **_named("model.", last)}},
        lambda last, ema: {**_named("averaged_model.", ema), **_named("net.", last)},
    ],
    ids=["timm", "torchvision", "lucidrains", "lightning", "bare"],
)
def test_averaged_weights_on_request(
    content: Any, tiny: nn.Module, ema: nn.Module, picture: Tensor, tmp_path: Path
) -> None:
    torch.save(content(tiny, ema), tmp_path / "last.pth")
    _reads(tmp_path / "last.pth", tiny, picture)
    _reads(tmp_path / "last.pth", ema, picture, ema=True)


def test_no_averaged_weights_is_said(tiny: nn.Module, tmp_path: Path) -> None:
    torch.save({"state_dict": _named("", tiny)}, tmp_path / "last.pth")
    with pytest.raises(FileError, match=f"last.pth holds no averaged weights of {ARCH}; remove --ema."):
        read_model(tmp_path / "last.pth", arch=ARCH, ema=True)


def test_modules_are_chosen_between_too(tiny: nn.Module, ema: nn.Module, picture: Tensor, tmp_path: Path) -> None:
    torch.save({"model": tiny, "ema": ema}, tmp_path / "last.pt")
    for wanted, expected in ((False, tiny), (True, ema)):
        assert torch.equal(read_model(tmp_path / "last.pt", ema=wanted).model(picture), expected(picture))
    torch.save({"model": tiny}, tmp_path / "last.pt")
    with pytest.raises(FileError, match=r"last\.pt holds a module without averaged weights; remove --ema"):
        read_model(tmp_path / "last.pt", ema=True)
    with pytest.raises(ArgumentError, match="of which there are no averaged weights; remove --ema"):
        read_model(ARCH, ema=True)


def test_two_networks_are_not_chosen_between(tiny: nn.Module, ema: nn.Module, tmp_path: Path) -> None:
    torch.save({**_named("student.", tiny), **_named("teacher.", ema)}, tmp_path / "last.pth")
    with pytest.raises(
        ArchitectureError, match=f"holds several networks that are {ARCH}, at student and teacher, .* --key teacher"
    ):
        read_model(tmp_path / "last.pth", arch=ARCH)


def test_one_network_by_two_names_is_one(tiny: nn.Module, picture: Tensor, tmp_path: Path) -> None:
    torch.save({**_named("model.", tiny), **_named("trainer.model.", tiny)}, tmp_path / "last.pth")
    _reads(tmp_path / "last.pth", tiny, picture)


def test_a_word_of_the_architecture_s_own_is_no_prefix() -> None:
    model = nn.Sequential()
    model.model = nn.Linear(1, 1)
    weights = {"model.weight": torch.ones(1, 1), "model.bias": torch.ones(1)}
    fit = fitting([Part(weights)], model, path=Path("w.pt"), arch="x:y")
    assert (fit.state(), fit.prefix) == (weights, "")


def test_the_pieces_that_torch_wraps(tiny: nn.Module, picture: Tensor, tmp_path: Path) -> None:
    averaged = AveragedModel(nn.DataParallel(tiny))
    averaged.update_parameters(averaged.module)
    torch.save(averaged.state_dict(), tmp_path / "swa.pt")
    _reads(tmp_path / "swa.pt", tiny, picture)
    _reads(tmp_path / "swa.pt", tiny, picture, ema=True)
    compiled = copy.deepcopy(tiny)
    compiled.layer1[0] = torch.compile(compiled.layer1[0])
    assert any(".0._orig_mod." in name for name in compiled.state_dict())
    torch.save(torch.compile(compiled).state_dict(), tmp_path / "compiled.pt")
    _reads(tmp_path / "compiled.pt", tiny, picture)


def test_distributed_data_parallel(tiny: nn.Module, picture: Tensor, tmp_path: Path) -> None:
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        torch.save({"model": nn.parallel.DistributedDataParallel(tiny).state_dict()}, tmp_path / "ddp.pt")
    finally:
        torch.distributed.destroy_process_group()
    assert _reads(tmp_path / "ddp.pt", tiny, picture) == "the weights are those under 'model' and named 'module.*'"


def test_timm_s_own_saver(tiny: nn.Module, picture: Tensor, tmp_path: Path) -> None:
    from timm.utils import CheckpointSaver, ModelEmaV3

    averaged = ModelEmaV3(tiny, decay=0.5)
    optimizer = torch.optim.SGD(tiny.parameters(), 0.1, momentum=0.9)
    tiny.train()(picture.repeat(2, 1, 1, 1)).sum().backward()
    optimizer.step()
    averaged.update(tiny)
    saver = CheckpointSaver(tiny, optimizer, model_ema=averaged, checkpoint_dir=str(tmp_path))
    saver.save_checkpoint(epoch=0, metric=0.5)
    assert _reads(tmp_path / "last.pth.tar", tiny.eval(), picture) == "the weights are those under 'state_dict'"
    _reads(tmp_path / "last.pth.tar", averaged.module.eval(), picture, ema=True)


@pytest.mark.filterwarnings("ignore")  # Lightning's own, of what torch has deprecated
def test_lightning_s_own_files(tiny: nn.Module, picture: Tensor, tmp_path: Path) -> None:
    lightning = pytest.importorskip("lightning.pytorch", exc_type=ImportError)
    from lightning.pytorch.callbacks import EMAWeightAveraging

    class Lit(lightning.LightningModule):
        def __init__(self, lr: float = 0.1) -> None:
            super().__init__()
            self.save_hyperparameters()
            self.net = timm.create_model("test_resnet")
            self.criterion = nn.CrossEntropyLoss(weight=torch.ones(1000))

        def training_step(self, batch: Tensor, _: int) -> Tensor:
            return self.criterion(self.net(batch), torch.zeros(len(batch), dtype=torch.long))

        def configure_optimizers(self) -> Any:
            return torch.optim.AdamW(self.parameters(), self.hparams.lr)

    module = Lit()
    average = EMAWeightAveraging(decay=0.5, update_every_n_steps=1)
    trainer = lightning.Trainer(
        max_steps=2,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[average],
        default_root_dir=tmp_path,
    )
    trainer.fit(module, torch.utils.data.DataLoader(picture[0].repeat(4, 1, 1, 1), batch_size=2))
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    content = torch.load(tmp_path / "last.ckpt", weights_only=False)
    assert content["optimizer_states"]
    expected = timm.create_model("test_resnet").eval()
    expected.load_state_dict({key[4:]: value for key, value in content["state_dict"].items() if key[:4] == "net."})
    taken = _reads(tmp_path / "last.ckpt", expected, picture)
    assert taken == "the weights are those under 'state_dict' and named 'net.*'"
    _reads(tmp_path / "last.ckpt", expected, picture, ema=True)  # what Lightning keeps there is the average


@pytest.mark.parametrize("head", [{}, {"fc.0.weight": torch.ones(2, 2), "fc.2.weight": torch.ones(2)}])
def test_a_backbone_may_lack_its_classifier(head: dict[str, Tensor], tiny: nn.Module, tmp_path: Path) -> None:
    state = {name: value for name, value in {**tiny.state_dict(), **head}.items() if name[:3] != "fc." or name in head}
    torch.save({"state_dict": {f"module.encoder.{name}": value for name, value in state.items()}}, tmp_path / "w.pt")
    with pytest.raises(ArchitectureError, match="all but the classifier fits: add --backbone to leave that random"):
        read_model(tmp_path / "w.pt", arch=ARCH)
    loaded = read_model(tmp_path / "w.pt", arch=ARCH, backbone=True)
    assert torch.equal(loaded.model.conv1[0].weight, tiny.conv1[0].weight)
    assert "2 weights of the classifier (fc.weight, fc.bias) are left random" in loaded.taken
    del state["conv1.0.weight"]
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(ArchitectureError, match=r"3 missing \(conv1\.0\.weight, fc\.weight, fc\.bias\)"):
        read_model(tmp_path / "w.pt", arch=ARCH, backbone=True)
