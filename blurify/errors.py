"""One exception family. Every message says what was given, what is wrong with it, and what to do."""

from __future__ import annotations


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
