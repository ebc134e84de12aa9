"""`python -m blurify` is `blurify`."""

from __future__ import annotations

from blurify.cli import main

if __name__ == "__main__":
    main()
