"""An ONNX graph as a module that runs it with onnxruntime: to be measured, not to be trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from blurify.errors import ArgumentError, FileError
from blurify.onnx.arithmetic import macs_of, weights_of
from blurify.onnx.converting import open_graph
from blurify.onnx.op import TORCH_TYPES
from blurify.onnx.running import CannotRun, Session
from blurify.onnx.shapes import infer


class OnnxModule(nn.Module):
    """The graph of a file. A batch that it does not take goes through in parts of the batch that it has.

    >>> OnnxModule(Path("net.onnx"))(torch.zeros(32, 3, 224, 224)).shape
    torch.Size([32, 1000])
    """

    def __init__(self, path: Path, size: tuple[int, ...] | None = None) -> None:
        super().__init__()
        graph = open_graph(path, size=size)
        if len(graph.trial.given) != 1:
            names = ", ".join(one.name for one in graph.trial.given)
            raise ArgumentError(f"{path} takes {len(graph.trial.given)} inputs ({names}), and images are one input.")
        (self._given,) = graph.trial.given
        self._model = graph.file.model
        sizes = graph.trial.sizes[self._given.name]
        # Where commands look for the size of an image.
        self.default_cfg = {"input_size": sizes[1:]}
        self._batch = sizes[0] if sizes and isinstance(self._given.sizes[0], int) else 0
        try:
            self._session = Session.of(path, path.parent, optimize=True)
        except CannotRun as error:
            raise FileError(f"{path} cannot be run: {error}.") from error
        self._path = path
        self.eval()

    def forward(self, x: Tensor) -> Any:
        """Return the only output, or all."""
        parts = torch.split(x, self._batch) if self._batch else (x,)
        results = [self._run(part) for part in parts]
        outputs = [torch.cat(each)[: len(x)] for each in zip(*results, strict=True)]
        return outputs[0] if len(outputs) == 1 else outputs

    def _run(self, part: Tensor) -> list[Tensor]:
        lacking = max(self._batch - len(part), 0)
        whole = torch.cat([part, part[-1:].expand(lacking, *part.shape[1:])]) if lacking else part
        fed = whole.detach().cpu().to(TORCH_TYPES.get(self._given.kind, torch.float32)).numpy()
        try:
            arrays = self._session.run({self._given.name: fed})
        except CannotRun as error:
            raise ArgumentError(
                f"{self._path} does not take a batch of {'x'.join(map(str, fed.shape))}: {error}."
            ) from error
        tensors = [torch.as_tensor(array) for array in arrays]
        return [(t.float() if t.is_floating_point() else t)[: len(part)] for t in tensors]

    def own_cost(self, example: Tensor) -> tuple[int, int]:
        """Count the multiply-accumulates of a batch, and the weights."""
        shapes = infer(self._model, {self._given.name: (self._batch or len(example), *example.shape[1:])})
        return macs_of(self._model, shapes), weights_of(self._model)
