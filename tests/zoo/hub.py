"""A stand-in of the hub's HTTP API: repositories in memory, and a number of requests that fail first."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any


@dataclass
class Hub:
    """What was asked of it, and what it holds: files by repository."""

    failing: int = 0
    refusing: bool = False
    asked: list[str] = field(default_factory=list)
    tokens: set[str | None] = field(default_factory=set)
    files: dict[str, dict[str, bytes]] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)

    def __enter__(self) -> Hub:
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                hub.tokens.add(self.headers.get("Authorization"))
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                self.reply(*hub.answer(self.path, body))

            def do_PUT(self) -> None:
                hub.asked.append("PUT")
                hub.blobs[self.path.rpartition("/")[2]] = self.rfile.read(int(self.headers["Content-Length"]))
                self.reply(200, {})

            def do_GET(self) -> None:
                files = hub.files.get(self.path.removeprefix("/api/models/").partition("/tree")[0], {})
                if "/tree/" in self.path:
                    entries = [{"type": "file", "path": p, "size": len(c), "oid": "0"} for p, c in files.items()]
                    return self.reply(200, entries)
                return self.reply(200, {"id": "x", "siblings": [{"rfilename": name} for name in files]})

            def reply(self, status: int, content: Any) -> None:
                sent = json.dumps(content).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(sent)))
                self.end_headers()
                self.wfile.write(sent)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()

    def answer(self, path: str, body: bytes) -> tuple[int, Any]:
        step = path.partition("?")[0].rpartition("/")[2] if "/main" not in path else path.split("/")[-2]
        self.asked.append(step)
        if self.refusing:
            return 403, {"error": "you have no right to write there"}
        if step == "create" and self.failing:
            self.failing -= 1
            return 503, {"error": "come back later"}
        return 200, getattr(self, f"_{step.replace('-', '_')}")(path, body)

    def _create(self, path: str, body: bytes) -> Any:
        asked = json.loads(body)
        name = "/".join(filter(None, [asked.get("organization"), asked["name"]]))
        self.files.setdefault(name, {})
        return {"url": f"{self.url}/{name}"}

    def _validate_yaml(self, path: str, body: bytes) -> Any:
        assert json.loads(body)["content"].startswith("---\nlibrary_name: ")
        return {"errors": [], "warnings": []}

    def _preupload(self, path: str, body: bytes) -> Any:
        """Weights are to be sent apart, all else with the commit."""
        names = [file["path"] for file in json.loads(body)["files"]]
        modes = {name: "lfs" if name.startswith("model.") else "regular" for name in names}
        return {"files": [{"path": n, "uploadMode": m, "shouldIgnore": False, "oid": None} for n, m in modes.items()]}

    def _batch(self, path: str, body: bytes) -> Any:
        def action(item: Any) -> Any:
            return item | {"actions": {"upload": {"href": f"{self.url}/upload/{item['oid']}"}}}

        return {"transfer": "basic", "objects": [action(item) for item in json.loads(body)["objects"]]}

    def _commit(self, path: str, body: bytes) -> Any:
        name = path.removeprefix("/api/models/").partition("/commit")[0]
        files = self.files[name]
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.blobs[value["oid"]]
            elif line["key"] == "deletedFile":
                files.pop(value["path"])
        return {"commitUrl": f"{self.url}/{name}/commit/{'5' * 40}", "commitOid": "5" * 40}
