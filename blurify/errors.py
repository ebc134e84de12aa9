"""One exception family. Every message says what was given, what is wrong with it, and what to do."""

from __future__ import annotations

from collections.abc import Iterator


class BlurifyError(Exception):
    """Base of every error that blurify raises on purpose."""


class ArgumentError(BlurifyError, ValueError):
    """An argument has a value that is not allowed."""


class ArgumentTypeError(BlurifyError, TypeError):
    """An argument has a type that is not allowed."""


class TraceError(BlurifyError, RuntimeError):
    """The model's graph could not be recorded."""


class PlanError(BlurifyError, ValueError):
    """A plan does not fit the model it is applied to, or cannot be read."""


class FileError(BlurifyError, OSError):
    """A file cannot be read or written, or does not hold what is needed."""


class UnsafeFileError(FileError):
    """Reading the file would need a class or function that the user has not allowed."""


class ArchitectureError(BlurifyError, ValueError):
    """An architecture name is unknown, or its weights do not match."""


class NoEffectWarning(UserWarning):
    """Nothing in the model was rewritten."""


class OmissionWarning(UserWarning):
    """The model does something in `forward` that its graph leaves out."""


class HooksWarning(OmissionWarning):
    """The model has hooks that its converted form does not run."""


class GridWarning(UserWarning):
    """The sampling grid of an output that is a map, or made of maps, moves by a pixel or more."""


def causes(error: BaseException | None, *, contexts: bool = True) -> Iterator[BaseException]:
    """Yield an exception and all that led to it, each once: an exception can be its own cause.

    Without `contexts` only what an exception was raised from counts.

    >>> [type(each) for each in causes(ValueError())]
    [<class 'ValueError'>]
    """
    seen: list[BaseException] = []
    while error is not None and not any(error is each for each in seen):
        seen.append(error)
        yield error
        error = error.__cause__ or (error.__context__ if contexts else None)


def one_line(error: BaseException, most: int | None = None) -> str:
    """Return the text of an exception as one line without a full stop, or its type if it has no text.

    >>> one_line(ValueError("bad size.")), one_line(KeyboardInterrupt())
    ('bad size', 'KeyboardInterrupt')
    """
    return " ".join(str(error).split())[:most].rstrip(".:") or type(error).__name__


def first_line(error: BaseException) -> str:
    """Return the first line of the text of an exception without its full stop, or its type if it has no text.

    >>> first_line(RuntimeError("sizes differ.\\nSee above."))
    'sizes differ'
    """
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__


def quoted(value: object) -> str:
    """Return a value as it fits into one sentence: its first characters, in ASCII, with the closing quote of a string.

    >>> quoted("name"), quoted("x" * 200)[-5:]
    ("'name'", "x...'")
    """
    shown = ascii(value)
    return shown if len(shown) <= 80 else f"{shown[:76]}...{shown[0] if isinstance(value, str) else ''}"
