"""Record a failure: its kind, and one sentence."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from blurify.errors import BlurifyError, causes, one_line
from blurify.zoo import sources, storage
from blurify.zoo.settings import FAILED, Record


def failure(error: Exception) -> Record:
    """Return the record of what went wrong: of which kind, and one sentence.

    >>> failure(MemoryError())["kind"]
    'memory'
    """
    text = one_line(error)
    # Of an error that is not blurify's own, its type is half of what it says.
    sentence = text if isinstance(error, BlurifyError) else f"{type(error).__name__}: {text}"
    return {"status": FAILED, "kind": kind_of(error), "error": sentence[:1000]}


def kind_of(error: Exception) -> str:
    """Return whether it was the disk, the memory, the network, or the model itself.

    >>> kind_of(MemoryError()), kind_of(ValueError())
    ('memory', 'error')
    """
    if storage.is_full(error):
        return "disk"
    if any(_is_memory(each) for each in causes(error)):
        return "memory"
    return "network" if sources.is_network(error) else "error"


def _is_memory(error: BaseException) -> bool:
    words = ("can't allocate memory", "not enough memory", "std::bad_alloc", "cannot allocate memory")
    return isinstance(error, MemoryError) or any(word in str(error).lower() for word in words)


@contextmanager
def noted(what: str, missing: dict[str, str]) -> Iterator[None]:
    """Let what is made beside a model fail alone, and note why.

    >>> missing = {}
    >>> with noted("onnx", missing):
    ...     raise FileError("this cannot be written as ONNX.")
    >>> missing
    {'onnx': 'this cannot be written as ONNX'}

    A full disk ends the run, and with more memory it might go well, so these are not noted but raised.
    """
    try:
        yield
    except Exception as error:
        if kind_of(error) in ("disk", "memory"):
            raise
        missing[what] = failure(error)["error"]
