"""A server of the page that judges images with the small file of `exported`, and does on demand what servers do."""

from __future__ import annotations

import base64
import email
import email.policy
import functools
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import exported
from exported import image

import graft_runtime
from graft_runtime.predictor import Predictor
from graft_runtime.serve.middleware import CONTENT_SECURITY_POLICY

PAGE = Path(graft_runtime.__file__).with_name("page")
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
}
SIZE = (60, 40)  # of its images
BUSY = {"error": {"code": "busy", "message": "Too many requests at once. Wait a little."}}
DENIED = {"error": {"code": "unauthorized", "message": "This server needs a token."}}


class Standin(ThreadingHTTPServer):
    """`about` changes what it says of itself, `token` is asked for where there is one, `busy` answers are refused."""

    daemon_threads = True

    def __init__(self, port: int = 0, **about: Any) -> None:
        super().__init__(("127.0.0.1", port), Answers)
        self.predictor = Predictor(exported.file(**about.pop("card", {})), 1)
        card = self.predictor.card
        self.about = {
            "name": "colours",
            "sha256": "ab" * 32,
            "classes": list(card.classes),
            "task": card.task,
            "thresholds": list(card.thresholds),
            "precision": "float32",
            "unknown": True,
            "sets": True,
            "heat": True,
            "corrections": True,
            "evidence": True,
            "limits": {"bytes": 2_000_000, "pixels": 64_000_000, "images": 8},
            "licences": {"weights": "CC0-1.0"},
        } | about
        self.token, self.busy, self.pause = "", 0, threading.Event()
        self.pause.set()
        self.asked: list[int] = []  # how many images each request held
        self.stored: list[tuple[str, bytes]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/"


@contextmanager
def serving(port: int = 0, **about: Any) -> Iterator[Standin]:
    server = Standin(port, **about)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.pause.set()
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def hosted(folder: Path) -> Iterator[str]:
    """A folder on a plain host of static files."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class Answers(BaseHTTPRequestHandler):
    server: Any
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        if path == "/v1/model":
            return self.say(401, DENIED) if self.denied() else self.say(200, self.server.about)
        name = {"/": "index.html", "/answerer.js": "ask-server.js"}.get(path, path[1:])
        if not (PAGE / name).is_file():
            return self.say(404, {})
        content = (PAGE / name).read_bytes()
        self.send(200, content, TYPES[Path(name).suffix], {"Content-Security-Policy": CONTENT_SECURITY_POLICY})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.denied():
            return self.say(401, DENIED)
        if self.path == "/v1/corrections":
            parts = self.parts(body)
            self.server.stored.append((parts["label"][0].decode(), parts["image"][0]))
            return self.say(201, {"stored": f"{parts['label'][0].decode()}/0.png"})
        if self.server.busy:
            self.server.busy -= 1
            return self.say(429, BUSY, {"Retry-After": "1"})
        many = self.headers["Content-Type"].startswith("multipart/")
        images = self.parts(body)["image"] if many else [body]
        self.server.asked.append(len(images))
        self.server.pause.wait(20)
        told = [self.answer(image) for image in images]
        bad = len(told) == 1 and bool(told[0]["fault"])
        self.say(422 if bad else 200, {"predictions": told, "model": {}, "milliseconds": 1.0})

    def answer(self, image: bytes) -> dict[str, Any]:
        (found,) = self.server.predictor.predict(image)
        told = found.as_dict()
        if found.answer is None:
            return told | {"heat": None}
        if found.unknown:
            near = {"labels": ["blue"], "similarity": 0.4}
            told["nearest"] = [
                near | {"image": "blue/1.jpg", "thumbnail": thumbnail()},
                near | {"image": "blue/<i>2</i>.jpg", "thumbnail": None},
            ]
        values = [5.0, 0.0, 0.0, 0.0, -9.0, 0.0, 0.0, 0.0, 0.0]  # hot in the corner above on the left
        heat = {"rows": 3, "columns": 3, "values": values, "area": [0.25, 0.0, 0.5, 1.0], "class": found.answer.label}
        return told | {"heat": heat}

    def parts(self, body: bytes) -> dict[str, list[bytes]]:
        head = f"Content-Type: {self.headers['Content-Type']}\r\n\r\n".encode()
        found: dict[str, list[bytes]] = {}
        for part in email.message_from_bytes(head + body, policy=email.policy.HTTP).iter_parts():
            name = part.get_param("name", header="content-disposition")
            found.setdefault(str(name), []).append(part.get_payload(decode=True))
        return found

    def denied(self) -> bool:
        return bool(self.server.token) and self.headers["Authorization"] != f"Bearer {self.server.token}"

    def say(self, status: int, what: Any, headers: dict[str, str] | None = None) -> None:
        self.send(status, json.dumps(what).encode(), "application/json", headers or {})

    def send(self, status: int, content: bytes, kind: str, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)


def thumbnail() -> str:
    return f"data:image/jpeg;base64,{base64.b64encode(image((20, 30, 200), SIZE, 'JPEG')).decode()}"
