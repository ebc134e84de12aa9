"""To the hub, by its own client, against a stand-in of its HTTP API."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from blurify.errors import ArgumentError
from blurify.zoo import pushing
from blurify.zoo.ledger import Ledger
from blurify.zoo.pushing import repository
from tests.docs.pages import ROOT
from tests.zoo.hub import Hub
from tests.zoo.subjects import HOME, tiny_names


def push(hub: Hub, folder: Path, *names: str) -> tuple[int, str]:
    """`blurify zoo ... --push`, whose client of the hub asks the stand-in."""
    own = {"HF_ENDPOINT": hub.url, "HF_TOKEN": "hf_testing", "HF_HUB_DISABLE_XET": "1"}
    command = [sys.executable, "-m", "blurify", "zoo", *names, "-o", str(folder), "--jobs", "1", "--push", "my-team"]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | own, text=True, capture_output=True, timeout=300)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.slow
def test_every_model_is_pushed_once_with_all_its_files(tmp_path: Path) -> None:
    folder, names = tmp_path / "zoo", tiny_names(2)
    with Hub(failing=1) as hub:
        code, said = push(hub, folder, *names)
        assert code == 0, said
        assert "\n2 of 2 models are on the hub\n" in said
        assert hub.tokens == {"Bearer hf_testing"}
        assert "%|" not in said  # the client's own bars
        assert hub.asked.count("create") == 3  # one was refused, and asked again
        assert hub.asked.count("commit") == 2
        for name in names:
            own = folder / HOME / name.rpartition(":")[2].replace("?", "--")
            held = hub.files[repository(name, "my-team", 4)]
            assert held == {path.name: path.read_bytes() for path in own.iterdir()}
        # What is there already is not pushed again.
        hub.refusing = True
        code, said = push(hub, folder, *tiny_names(3))
        assert code == 1
        assert "\n2 of 3 models are on the hub\n" in said
        assert f"  {tiny_names(3)[2]}: not pushed: HfHubHTTPError: 403 Forbidden" in said
        assert "Traceback" not in said
        assert hub.asked.count("commit") == 2
    assert "error" in Ledger(folder / "ledger.jsonl").pushed[tiny_names(3)[2]]


def test_without_a_login_nothing_is_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    with pytest.raises(ArgumentError, match="nothing can be pushed without a login of the hub; log in with: hf auth"):
        pushing.check_login("my-team")
    with pytest.raises(ArgumentError, match="'my team' is not the name of an account of the hub"):
        pushing.check_login("my team")


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("timm:resnet18.a1_in1k", "my-team/timm-resnet18.a1_in1k-blur4"),
        ("hf-hub:timm/resnet18.a1_in1k", "my-team/hf-hub-timm-resnet18.a1_in1k-blur4"),
        ("tests.zoo.subjects:tiny?width=3", "my-team/tests.zoo.subjects-tiny-width-3-blur4"),
    ],
)
def test_repositories_have_names_that_the_hub_takes(name: str, wanted: str) -> None:
    from huggingface_hub.utils import validate_repo_id

    assert repository(name, "my-team", 4) == wanted
    validate_repo_id(wanted)
    validate_repo_id(repository(name + "x" * 200, "my-team", 4))
