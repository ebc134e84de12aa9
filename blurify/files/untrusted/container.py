"""The outside of a file: what wrote it, which names its pickle uses, and the one call that unpickles it."""

from __future__ import annotations

import io
import pickle
import tarfile
import warnings
import zipfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from blurify.errors import FileError
from blurify.files.safetensors_file import looks_like_safetensors
from blurify.files.untrusted import legacy
from blurify.files.untrusted.arrays import ARRAYS
from blurify.files.untrusted.instances import check_instances, inside, unchanged_enums
from blurify.files.untrusted.pickled import Following
from blurify.files.untrusted.plain import looks_plain, read_plain
from blurify.files.untrusted.records import content_of, records_of, root_of
from blurify.files.untrusted.safety import NOBODY, PLAIN, Trust, refusal, resolve_globals
from blurify.files.untrusted.stand_ins import NUMPY, has_weights, stand_in, without_stand_ins
from blurify.rewriting.origin import Pending

_INSTEAD = "give a .pt or .pth file with a state_dict or a model, or safetensors"

Container = Literal["zip", "legacy", "pickle", "safetensors", "index", "program", "torchscript", "onnx"]
# An ONNX file begins with its version, which is one byte, and then has one of these fields: strings, or the graph.
ONNX_FIELDS = (b"\x12", b"\x1a", b"\x22", b"\x28", b"\x32", b"\x3a", b"\x42")
# Those that are more than weights or a pickled module.
PROGRAMS = {"program": "a torch.export archive", "torchscript": "a TorchScript archive", "onnx": "an ONNX graph"}


def read_object(path: Path, trust: Trust = NOBODY) -> Any:
    """Return what `torch.save` put into a file, running nothing that is not allowed.

    >>> read_object(Path("weights.pt"))["fc.bias"].shape
    torch.Size([1000])
    """
    container = identify(path)
    if container in PROGRAMS:
        raise FileError(
            f"{path} is {PROGRAMS[container]}, which is a program and no weights; convert it with: blurify {path}"
        )
    if container == "pickle":
        return read_plain(path)
    held = records_of(path) if container == "zip" else {}
    found = resolve_globals(path, _names(path, container), trust)
    # Classes of a package that is trusted as a whole are rebuilt, and never called with arguments.
    filled = _follow(path, held, {*PLAIN, *trust.names, *found.callables}, found.bare)
    pairs = [*found.pairs, *((stand_in(name, name in filled), name) for name in found.unknown)]
    with unchanged_enums([value for value, _ in pairs], path):
        content = _unpickled(path, container, pairs)
    if found.unknown:
        content = _known_parts(content, path, found.unknown)
    check_instances(content, path, trust.names)
    return with_graphs(content, path)


def _known_parts(content: Any, path: Path, unknown: Collection[str]) -> Any:
    """Leave out what is made of stand-ins, or refuse the file where the model is."""
    kept, needed = without_stand_ins(content, inside)
    if not has_weights(kept, lambda value: isinstance(value, torch.Tensor)) and (needed or kept is None):
        needed = needed or set(unknown)
        raise refusal(path, [name for name in unknown if name in needed or (NUMPY in needed and name in ARRAYS)])
    return kept


def with_graphs(content: Any, path: Path) -> Any:
    """Make the graphs that the content holds: now that it has been looked at, their models may run."""
    if isinstance(content, dict):
        for key, value in dict.items(content):
            if isinstance(value, nn.Module):
                dict.__setitem__(content, key, with_graphs(value, path))
    if isinstance(content, nn.Module):
        for name, child in content._modules.items():
            content._modules[name] = child if child is None else with_graphs(child, path)
    if not isinstance(content, Pending):
        return content
    try:
        return content.made()
    except Exception as error:  # the model of a file may fail in any way at all
        raise FileError(f"{path} holds a graph that cannot be made: {_first_fact(error)}; convert it again.") from error


def _follow(
    path: Path, held: Mapping[str, int], callable_names: Collection[str], bare: Collection[str]
) -> Collection[str]:
    """Refuse a pickle that would make what is not in the file; of an archive, in the records it holds."""
    if not held:
        try:
            return legacy.follow(path, callable_names, bare)
        except (ValueError, IndexError, KeyError, TypeError) as error:  # what pickletools says of damage
            raise FileError(f"{path} cannot be read: {_first_fact(error)}; save or copy it again.") from error
    root = root_of(held)
    following = Following(path, callable_names, lambda key, _: held.get(f"{root}/data/{key}"), bare)
    following.follow(content_of(path, f"{root}/data.pkl"))
    return following.filled


def _unpickled(path: Path, container: Container, pairs: list[tuple[Any, str]]) -> Any:
    source: Path | io.BytesIO = path if container == "zip" else legacy.without_class_sources(path)
    try:
        # The list of names leaves out what the process had allowed before, so nothing of that is taken back here.
        with torch.serialization.safe_globals(pairs), warnings.catch_warnings():  # type: ignore[arg-type]
            warnings.simplefilter("ignore")  # deprecated storage classes in old files: nothing the user can act on
            return torch.load(source, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle can fail in any way at all
        raise FileError(f"{path} cannot be read: {_first_fact(error)}; save or copy it again.") from error


def identify(path: Path) -> Container:
    """Say which container a file is, by its first bytes, or refuse it.

    >>> identify(Path("weights.pt"))
    'zip'
    """
    if not path.exists():
        raise FileError(f"There is no file {path}; check the name.")
    if not path.is_file():
        kind = "folder" if path.is_dir() else "special file"
        raise FileError(f"{path} is a {kind}, not a model file; give the file that torch.save wrote.")
    head = _head(path)
    if not head:
        raise FileError(f"{path} is empty; save or copy it again.")
    if head.startswith(b"PK"):
        return _identify_zip(path)
    if legacy.is_legacy(head):
        return "legacy"
    if looks_plain(head):
        return "pickle"
    if looks_like_safetensors(head):
        return "safetensors"
    if head.lstrip().startswith(b"{"):
        return "index"
    if head[0] == 8 and head[2:3] in ONNX_FIELDS:
        return "onnx"
    raise FileError(f"{path} is {_guess(path, head)}, not a file that torch.save wrote; {_INSTEAD}.")


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(512)
    except OSError as error:
        raise FileError(f"{path} cannot be read: {error.strerror}; check its permissions.") from error


def _identify_zip(path: Path) -> Container:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise FileError(f"{path} is a truncated or damaged zip archive; save or copy it again.") from error
    entries = {name.rpartition("/")[2] for name in names}
    if "constants.pkl" in entries:
        return "torchscript"
    if {"archive_format", "model.json"} <= entries:
        return "program"
    if "serialized_exported_program.json" in entries:
        raise FileError(
            f"{path} is a torch.export archive of an older age; export the model again with torch 2.8 or later."
        )
    if not names or f"{root_of(names)}/data.pkl" not in names:
        raise FileError(f"{path} is a zip archive that torch.save did not write; give a file that it wrote.")
    return "zip"


def _names(path: Path, container: Container) -> Collection[str]:
    try:
        source = str(path) if container == "zip" else legacy.as_zip(path)
        return torch.serialization.get_unsafe_globals_in_checkpoint(source)
    except pickle.UnpicklingError as error:
        message = f"{path} holds a pickle that cannot be checked for safety ({_first_fact(error)}); "
        raise FileError(message + "save it again, with torch.save's own protocol.") from error
    except Exception as error:
        raise FileError(f"{path} cannot be read: {_first_fact(error)}; save or copy it again.") from error


def _guess(path: Path, head: bytes) -> str:
    if tarfile.is_tarfile(path):
        return "a tar archive"
    return "a text file" if _is_text(head) else "of an unknown kind"


def _is_text(head: bytes) -> bool:
    try:
        text = head[: len(head) - 4 if len(head) > 4 else None].decode()  # a character may be cut at the end
    except UnicodeDecodeError:
        return False
    return all(character.isprintable() or character.isspace() for character in text)


def _first_fact(error: BaseException) -> str:
    """Torch answers in paragraphs; the fact is the line after 'WeightsUnpickler error:', or else the first."""
    text = str(error)
    _, mark, rest = text.partition("WeightsUnpickler error:")
    lines = [line.strip() for line in (rest if mark else text).splitlines() if line.strip()]
    return lines[0].rstrip(".:") if lines else type(error).__name__
