"""`python -m blurify.timm SCRIPT ARGUMENTS`: register the variants, then run what calls `timm.create_model`."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

USAGE = "usage: python -m blurify.timm SCRIPT ARGUMENTS, such as: train.py --model blur_resnet50 ..."


def main(arguments: list[str]) -> None:
    """Register the variants, then run the script as if it had been named to Python itself."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE)
        sys.exit(0 if arguments else 2)
    script = Path(arguments[0])
    if not script.is_file():
        sys.exit(f"Error: {script} is no file; name a script, such as timm's train.py.")
    from blurify.timm import register

    register()
    sys.argv = arguments
    # Where Python looks first is the folder of the script that it was given.
    sys.path.insert(0, str(script.resolve().parent))
    runpy.run_path(str(script), run_name="__main__")


if __name__ == "__main__":
    main(sys.argv[1:])
