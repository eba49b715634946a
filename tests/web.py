"""A web server of our own that misbehaves in every way on request, and notes what it was asked for."""

from __future__ import annotations

import gzip
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

BOMB = gzip.compress(bytes(20_000_000))  # 20 kB


class Web(ThreadingHTTPServer):
    """Serves `files` by path; some paths do what their name says. `seen` counts the requests, robots.txt aside."""

    daemon_threads = True
    block_on_close = False

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.seen: Counter[str] = Counter()
        self.agents: set[str] = set()
        self.moments: list[float] = []
        self.busy = self.busiest = 0
        self.pause = 0.0  # before each answer
        self.robots: tuple[int, str] = (404, "")
        self.lock, self.over = threading.Lock(), threading.Event()
        super().__init__(("127.0.0.1", 0), _Answering)

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that hang up are what we want."""


class _Answering(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Web

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        web, path = self.server, unquote(self.path)
        if path == "/robots.txt":
            self.answer(web.robots[0], web.robots[1].encode())
            return
        with web.lock:
            web.seen[path] += 1
            web.agents.add(self.headers["User-Agent"])
            web.moments.append(time.monotonic())
            web.busy += 1
            web.busiest = max(web.busy, web.busiest)
        try:
            self.server.over.wait(web.pause)
            self.respond(path)
        finally:
            with web.lock:
                web.busy -= 1

    def respond(self, path: str) -> None:
        image = next(iter(self.server.files.values()))
        if path in self.server.files:
            self.answer(200, self.server.files[path])
        elif path.startswith("/status/"):
            self.answer(
                int(path.split("/")[2]), b"", **{"Retry-After": path.split("/")[3]} if path.count("/") > 2 else {}
            )
        elif path.startswith("/flaky/"):  # 503 twice, then the image
            self.answer(*((200, image) if self.server.seen[path] > 2 else (503, b"")), **{"Retry-After": "0"})
        elif path.startswith("/to/"):
            self.answer(302, b"", Location=path[4:])
        elif path == "/loop":
            self.answer(302, b"", Location="/loop")
        elif path == "/short":
            self.answer(200, image[:100], **{"Content-Length": str(len(image))})
            self.close_connection = True
        elif path == "/html.jpg":
            self.answer(200, b"<!DOCTYPE html><html>Not here</html>", **{"Content-Type": "image/jpeg"})
        elif path == "/empty.jpg":
            self.answer(200, b"")
        elif path == "/cut.jpg":
            self.answer(200, image[: len(image) // 2])
        elif path == "/announced":
            self.answer(200, b"", **{"Content-Length": "999999999"})
        elif path == "/bomb":
            self.answer(200, BOMB, **{"Content-Encoding": "gzip"})
        elif path == "/zipped.jpg":
            self.answer(200, gzip.compress(image), **{"Content-Encoding": "gzip"})
        elif path == "/brotli":
            self.answer(200, b"?", **{"Content-Encoding": "br"})
        elif path == "/never":
            self.server.over.wait(5)
        else:
            self.endless(path)

    def endless(self, path: str) -> None:
        """Bodies, or headers, that do not end."""
        if path == "/huge":
            self.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
            while not self.server.over.is_set():
                self.wfile.write(bytes(65536))
        elif path in ("/drip", "/dripping-headers"):
            self.wfile.write(b"HTTP/1.1 200 OK\r\n" + (b"\r\n" if path == "/drip" else b"X: "))
            while not self.server.over.wait(0.05):
                self.wfile.write(b"x")
        else:
            self.answer(404, b"")

    def answer(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
