"""The recipe of the classifiers of digits: SGD with Nesterov's momentum, one cycle of the learning rate, no shifts."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

BATCH = 128
LEARNING_RATE = 0.1


def fit(
    model: nn.Module,
    prepare: Callable[[Tensor], Tensor],
    pictures: Tensor,
    labels: Tensor,
    *,
    epochs: int,
    weight_decay: float,
    batch_size: int = BATCH,
) -> None:
    """Train the model on the images, each batch passed through `prepare`, in the order that torch's seed draws."""
    model.train()
    steps = len(pictures) // batch_size
    optimizer = torch.optim.SGD(model.parameters(), LEARNING_RATE, 0.9, weight_decay=weight_decay, nesterov=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=epochs * steps)
    for epoch in range(epochs):
        start = time.perf_counter()
        for batch in torch.randperm(len(pictures)).split(batch_size)[:steps]:
            loss = F.cross_entropy(model(prepare(pictures[batch])), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        print(f"epoch {epoch + 1} of {epochs}: loss {loss.item():.4f}, {time.perf_counter() - start:.0f} s", flush=True)
    model.eval()
