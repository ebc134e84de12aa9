"""Models from files and names, converted models to files. A file is read by what it holds, not by its suffix."""

from __future__ import annotations

from blurify.files.architecture import build_architecture, looks_like_architecture
from blurify.files.atomic import check_output
from blurify.files.onnx_graph import SUFFIX as ONNX_SUFFIX
from blurify.files.onnx_graph import require_onnx, save_onnx
from blurify.files.program import SUFFIX as PROGRAM_SUFFIX
from blurify.files.program import save_program
from blurify.files.reading import LoadedModel, load, read_model
from blurify.files.writing import save

__all__ = [
    "ONNX_SUFFIX",
    "PROGRAM_SUFFIX",
    "LoadedModel",
    "build_architecture",
    "check_output",
    "load",
    "looks_like_architecture",
    "read_model",
    "require_onnx",
    "save",
    "save_onnx",
    "save_program",
]
