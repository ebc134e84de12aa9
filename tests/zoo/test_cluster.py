"""The same jobs on Ray: a cluster of two machines, one of which is lost; and outputs in a bucket."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from blurify.errors import ArgumentError
from blurify.zoo import cluster, job
from blurify.zoo.running import Silent, convert_all
from blurify.zoo.settings import Limits, Record, Settings
from blurify.zoo.storage import open_store
from tests.zoo.conftest import assert_whole, model_records
from tests.zoo.subjects import HOME, tiny_names

# What Ray's own code warns of is none of our business.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.slow
def test_an_address_that_does_not_answer_is_said_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(ArgumentError, match=f"No cluster answers at 127.0.0.1:{port} within 5 s .*ray start --head"):
        cluster.runner(f"127.0.0.1:{port}")
    with pytest.raises(ArgumentError, match="'nowhere' is not the address of a cluster; give HOST:PORT"):
        cluster.runner("nowhere")


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(ArgumentError, match=r"needs Ray, which is not here; pip install 'blurify\[cluster\]'"):
        cluster.runner("local")


@pytest.fixture(scope="module")
def two_machines() -> Iterator[Any]:
    ray = pytest.importorskip("ray")
    utils = pytest.importorskip("ray.cluster_utils")
    machines = utils.Cluster()
    for _ in range(2):
        machines.add_node(num_cpus=1, memory=2 * 10**9, object_store_memory=80 * 2**20, include_dashboard=False)
    yield machines
    ray.shutdown()
    machines.shutdown()


@pytest.mark.slow
def test_a_machine_is_lost_and_every_model_is_there_once(two_machines: Any, tmp_path: Path) -> None:
    folder, names = tmp_path / "zoo", tiny_names(8)
    _, doomed = two_machines.list_all_nodes()

    class Watcher(Silent):
        ended_at_loss = 0

        def begin(self, stage: str, total: int) -> None:
            self.stage = stage

        def ended(self, name: str, record: Record) -> None:
            if self.stage == "converting" and len(model_records(folder)) == 3:
                two_machines.remove_node(doomed, allow_graceful=False)
                self.ended_at_loss = 3

    watcher = Watcher()
    bad = f"{HOME}:dies_later"
    result = convert_all(
        [*names, bad],
        Settings(),
        str(folder),
        limits=Limits(2, 120, 4 * 10**9),
        watcher=watcher,
        runner=cluster.runner(two_machines.address),
    )
    assert watcher.ended_at_loss == 3
    assert len(two_machines.list_all_nodes()) == 1
    assert result.counts == {"converted": 8, "failed": 1}
    assert result.records[bad]["kind"] == "crash"
    assert sorted(record["model"] for record in model_records(folder)) == sorted([*names, bad])
    # Only those that did not fail are held to have files.
    (folder / "ledger.jsonl").write_text(
        "".join(f"{line}\n" for line in (folder / "ledger.jsonl").read_text().splitlines() if bad not in line)
    )
    convert_all(names, Settings(), str(folder))
    assert_whole(folder, names)


@pytest.mark.slow
def test_a_bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = pytest.importorskip("moto.server")
    s3fs = pytest.importorskip("s3fs")
    names = tiny_names(2)
    thread = server.ThreadedMotoServer(port=0, verbose=False)
    thread.start()
    host, port = thread.get_host_and_port()
    for key, value in {
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(key, value)
    try:
        s3fs.S3FileSystem().mkdir("bucket")
        where = "s3://bucket/zoo"
        made = [job.convert(name, Settings(), where) for name in names]
        assert [record["status"] for record in made] == ["converted", "converted"], made
        store = open_store(where)
        assert all(store.holds(record) for record in made)
        assert job.convert(names[0], Settings(), where)["time"] == made[0]["time"]
        s3fs.S3FileSystem().rm_file(f"bucket/zoo/{HOME}/tiny--width=1/plan.json")
        assert not store.holds(made[0])
        assert job.convert(names[0], Settings(), where)["time"] != made[0]["time"]
    finally:
        thread.stop()
