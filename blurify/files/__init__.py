"""Models from files and names, converted models to files. A file is read by what it holds, not by its suffix."""

from __future__ import annotations

from blurify.files.architecture import build_architecture, looks_like_architecture
from blurify.files.atomic import check_output
from blurify.files.contents import check_size
from blurify.files.formats import FORMATS, Format, SaveOptions, choose_format, fitting_format, is_onnx, own_format
from blurify.files.onnx_graph import require_onnx, save_onnx
from blurify.files.program import ProgramSignature, save_program
from blurify.files.reading import LoadedModel, load, read_model
from blurify.files.writing import save

__all__ = [
    "FORMATS",
    "Format",
    "LoadedModel",
    "ProgramSignature",
    "SaveOptions",
    "build_architecture",
    "check_output",
    "check_size",
    "choose_format",
    "fitting_format",
    "is_onnx",
    "load",
    "looks_like_architecture",
    "own_format",
    "read_model",
    "require_onnx",
    "save",
    "save_onnx",
    "save_program",
]
