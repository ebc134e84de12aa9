"""Converted models to the hub, each in a repository of its own, by one commit: all of its files or none."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from blurify.errors import ArgumentError
from blurify.zoo.failures import failure
from blurify.zoo.ledger import Ledger
from blurify.zoo.settings import CONVERTED, Record
from blurify.zoo.sources import DELAYS, is_network, is_offline
from blurify.zoo.storage import Store, place

# What the hub says of a request that will not go better the next time: 4xx, but for too many of them.
_REFUSED = range(400, 500)
_TOO_MANY = 429


def check_login(organisation: str) -> None:
    """Refuse, before any slow work, where nothing could be pushed.

    >>> check_login("my-organisation")

    Raises:
        ArgumentError: this is no name of an account, the hub's client is not installed, or nobody has logged in.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", organisation):
        raise ArgumentError(f"{organisation!r} is not the name of an account of the hub; give one, such as my-team.")
    try:
        from huggingface_hub import get_token
    except ImportError as error:
        raise ArgumentError("pushing needs huggingface_hub, which is not here; pip install huggingface_hub.") from error
    if get_token() is None:
        raise ArgumentError("nothing can be pushed without a login of the hub; log in with: hf auth login")


def repository(name: str, organisation: str, filt_size: int) -> str:
    """Where a model goes.

    >>> repository("timm:resnet18.a1_in1k", "my-team", 4)
    'my-team/timm-resnet18.a1_in1k-blur4'
    """
    plain = re.sub(r"[^A-Za-z0-9_.]+|\.{2,}", "-", place(name)).strip("-.")
    ending = f"-blur{filt_size}"
    return f"{organisation}/{plain[: 96 - len(ending)]}{ending}"


def push_all(
    ledger: Ledger,
    store: Store,
    names: Iterable[str],
    organisation: str,
    filt_size: int,
    told: Callable[[str, Record], None] = lambda name, record: None,
    stopping: Callable[[], bool] = lambda: False,
) -> dict[str, Record]:
    """Push every converted model that was not pushed as it is now, and return what became of each.

    >>> push_all(ledger, store, ["timm:resnet18"], "my-team", 4)["timm:resnet18"]["commit"]
    '3f9c0d...'
    """
    found: dict[str, Record] = {}
    for name in names:
        record = ledger.models.get(name, {})
        if record.get("status") != CONVERTED:
            continue
        wanted = {"push": name, "repository": repository(name, organisation, filt_size), "made": record["time"]}
        known = ledger.pushed.get(name, {})
        if "commit" in known and wanted.items() <= known.items():
            found[name] = known
        elif not stopping():
            found[name] = ledger.push(wanted | _pushed(store, name, wanted["repository"]))
            told(name, found[name])
    return found


def _pushed(store: Store, name: str, target: str, delays: Sequence[float] = DELAYS) -> Record:
    for delay in (*delays, None):
        try:
            with store.fetched(name) as folder:
                return {"commit": _upload(folder, target)}
        except Exception as error:  # what the client raises is not ours to list
            if delay is None or not _may_go_better(error):
                return {"error": failure(error)["error"]}
            time.sleep(delay)
    raise AssertionError("the last attempt returns")


def _upload(folder: Path, target: str) -> str:
    from huggingface_hub import HfApi

    api = HfApi(library_name="blurify")
    api.create_repo(target, exist_ok=True)
    with _without_bars():
        # Files of an earlier attempt that are no longer made must not stay.
        info = api.upload_folder(
            repo_id=target, folder_path=folder, commit_message="Antialias by blurify zoo", delete_patterns="model.*"
        )
    return str(info.oid)


@contextmanager
def _without_bars() -> Iterator[None]:
    """The client's own would be drawn over ours."""
    from huggingface_hub import utils

    # Its types do not say that these are public.
    bars: Any = utils
    if bars.are_progress_bars_disabled():
        yield
        return
    bars.disable_progress_bars()
    try:
        yield
    finally:
        bars.enable_progress_bars()


def _may_go_better(error: Exception) -> bool:
    if is_offline():
        return False
    response: Any = getattr(error, "response", None)
    status = getattr(response, "status_code", None)
    return is_network(error) and (status is None or status == _TOO_MANY or status not in _REFUSED)
