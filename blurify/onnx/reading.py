"""Read and write ONNX files. Weights in files of their own are neither read nor written, and stay as they are."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import onnx

from blurify.errors import FileError, one_line
from blurify.onnx.scopes import graphs_in, is_external
from blurify.onnx.shapes import without_weights


@dataclass(frozen=True, eq=False)
class OnnxFile:
    """The message of an ONNX file, where it was read, and what `onnx.checker` says against it."""

    path: Path
    model: Any
    flaw: str = ""

    @property
    def folder(self) -> Path:
        """Return the folder in which its further files lie."""
        return self.path.parent

    @property
    def further(self) -> list[str]:
        """Return the names of the files that hold weights."""
        return sorted({location_of(tensor) for tensor in tensors_in(self.model) if is_external(tensor)})

    @property
    def size(self) -> int:
        """Return how many bytes the file and its further files have."""
        return sum(place.stat().st_size for place in (self.path, *(self.folder / name for name in self.further)))

    def copied(self) -> Any:
        """Return a copy of the message, to be edited."""
        twin = onnx.ModelProto()
        twin.CopyFrom(self.model)
        return twin


def read_file(path: Path) -> OnnxFile:
    """Read the message of a file, and refuse one that is damaged or that leads out of its folder.

    >>> read_file(Path("net.onnx")).model.graph.name
    'main_graph'

    Raises:
        FileError: the file cannot be read.
    """
    try:
        model = onnx.load(path, load_external_data=False)
        graphs = list(graphs_in(model.graph))
    except Exception as error:  # a damaged file can fail in any way at all
        raise damaged(path, one_line(error, 300)) from error
    if not any(graph.node for graph in graphs):
        raise damaged(path, "it has no nodes")
    for tensor in tensors_in(model):
        check_tensor(path, tensor)
    return OnnxFile(path, model, flaw_of(model))


def flaw_of(model: Any) -> str:
    """Return what `onnx.checker` says against a message; onnxruntime runs many that it refuses."""
    try:
        onnx.checker.check_model(without_weights(model))
    except Exception as error:
        return one_line(error, 300)
    return ""


def damaged(path: Path, fact: str) -> FileError:
    """Return the refusal of a file that cannot be read."""
    return FileError(f"{path} is no ONNX file that can be read: {fact}; save or copy it again.")


def tensors_in(model: Any) -> Iterator[Any]:
    """Yield all tensors of a file: initializers, and those that attributes hold."""
    for graph in graphs_in(model.graph):
        yield from graph.initializer
        for node in graph.node:
            for given in node.attribute:
                if given.HasField("t"):
                    yield given.t
                yield from given.tensors


def location_of(tensor: Any) -> str:
    """Return the file that a tensor's numbers lie in, as it is named."""
    return next((entry.value for entry in tensor.external_data if entry.key == "location"), "")


def check_tensor(path: Path, tensor: Any) -> None:
    """Refuse a tensor of sizes that its numbers do not have, or whose numbers lie in another folder.

    Raises:
        FileError: it is so.
    """
    if min(tensor.dims, default=0) < 0 or prod(tensor.dims) >= 2**40:
        raise FileError(f"{path} declares a tensor {tensor.name!r} of sizes {list(tensor.dims)}; save it again.")
    if not is_external(tensor):
        return
    name = location_of(tensor)
    place, folder = path.parent / name, path.parent.resolve()
    if not name or Path(name).is_absolute() or folder not in place.resolve().parents:
        raise FileError(
            f"{path} has weights in {name!r}, which is not in its folder; save it with the weights next to it."
        )
    if not place.is_file():
        raise FileError(f"{path} has weights in {name!r}, which is not there; copy that file too.")
    facts = {entry.key: entry.value for entry in tensor.external_data}
    start, length = (int(facts[key]) if facts.get(key, "").isdigit() else 0 for key in ("offset", "length"))
    if start + length > place.stat().st_size:
        raise FileError(f"{path} has weights in {name!r}, which ends before them; copy that file again.")


def copy_further(source: OnnxFile, target: Path, force: bool) -> list[Path]:
    """Copy the files that hold weights next to an output in another folder; return the copies.

    Raises:
        FileError: another file is there already.
    """
    if source.folder.resolve() == target.parent.resolve():
        return []
    copies = []
    for name in source.further:
        place = target.parent / name
        if place.exists() and not force:
            raise FileError(
                f"the weights of {source.path} lie in {name}, and there is another file of that name next to {target}; "
                "name an output in another folder with -o, or overwrite it with --force."
            )
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source.folder / name, place)
        copies.append(place)
    return copies
