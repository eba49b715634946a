"""The OpenAPI document is true: every answer that it names is had from a server, and is what it says."""

from __future__ import annotations

import base64
import errno
import gzip
import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2 as httpx
import jsonschema
import pytest
from serving import RED, TOKEN, Running, running, said
from starlette.routing import Router

from graft_runtime.serve import openapi
from graft_runtime.serve.bounds import Bounds

INPUT = {"name": "file", "datatype": "BYTES", "shape": [1], "data": [base64.b64encode(RED).decode()]}
BODIES: dict[str, dict[str, Any]] = {
    "/v1/predict": {"content": RED},
    "/v1/corrections": {"files": {"image": ("x.png", RED)}, "data": {"label": "green"}},
    "infer": {"json": {"inputs": [INPUT]}},
}
OPERATIONS = [(path, method) for path, entry in openapi.PATHS.items() for method in entry if method != "parameters"]
POSTS = [path for path, method in OPERATIONS if method == "post"]
Seen = set[tuple[str, str, int]]


def body(path: str) -> dict[str, Any]:
    return BODIES.get(path, BODIES["infer"])


def seen_in(seen: Seen, server: Running, status: int) -> Callable[..., None]:
    """Asks, wants this status, and holds the answer against the document."""
    version = server.model.served.version

    def ask(path: str, method: str, **given: Any) -> None:
        names = {"name": "colours", "version": version} | given.pop("names", {})
        given = ({} if method == "get" or {"content", "files", "json"} & given.keys() else body(path)) | given
        found = httpx.request(method.upper(), server.url + path.format(**names), timeout=30, **given)
        assert found.status_code == status, (path, found.text)
        fits(path, method, found.status_code, found.headers["content-type"], found.content)
        seen.add((path, method, status))

    return ask


def fits(path: str, method: str, status: int, kind: str, content: bytes) -> None:
    told = openapi.PATHS[path][method]["responses"][str(status)]["content"]
    schema = told[kind.partition(";")[0]]["schema"]
    if kind.startswith("application/json"):
        jsonschema.Draft202012Validator(schema).validate(json.loads(content))


@pytest.mark.slow
def test_every_answer_that_the_document_names_is_given_as_it_says(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, packed = Seen(), {"content-encoding": "gzip"}
    with running(file, corrections=tmp_path) as server:
        ask = seen_in(seen, server, 200)
        for path, method in OPERATIONS:
            if path != "/v1/corrections":
                ask(path, method)
        ask("/v1/predict", "post", params={"heat": "1", "coverage": "0.9"})
        seen_in(seen, server, 201)("/v1/corrections", "post")
        (tmp_path / "red").write_text("mine")
        seen_in(seen, server, 507)("/v1/corrections", "post", data={"label": "red"})
        for path, method in OPERATIONS:
            seen_in(seen, server, 403)(path, method, headers={"host": "evil.example"})
        for path in POSTS:
            seen_in(seen, server, 400)(path, "post", headers=packed)  # what is not packed at all
            seen_in(seen, server, 415)(path, "post", headers={"content-encoding": "br"})
        ask = seen_in(seen, server, 422)
        ask("/v1/predict", "post", content=b"no image")
        ask("/v1/predict", "post", params={"coverage": "2"})
        ask("/v1/corrections", "post", files={"image": ("x.png", b"no image")})
        bad = {"inputs": [INPUT | {"data": ["QQ=="]}]}
        for path, method in OPERATIONS:
            if path.endswith("/infer"):
                ask(path, method, json=bad)
            for name in ("name", "version"):
                if f"{{{name}}}" in path:
                    seen_in(seen, server, 404)(path, method, names={name: "other"})
        for status, fault in ((500, RuntimeError()), (503, OSError(errno.EMFILE, "Too many open files"))):
            with monkeypatch.context() as patched:
                patched.setattr(Router, "__call__", failing(fault))
                for path, method in OPERATIONS:
                    seen_in(seen, server, status)(path, method)
    few = Bounds(bytes=100, body=0.5)
    with running(file, few) as server, running(file, Bounds(requests=0)) as full, running(file, token=TOKEN) as shut:
        seen_in(seen, server, 404)("/v1/corrections", "post")
        for path in POSTS:
            seen_in(seen, full, 429)(path, "post")
        with running(file, few, corrections=tmp_path) as keeps:
            for path in POSTS:
                too_slow(seen, keeps, path)
                zeros = {"content": gzip.compress(bytes(2_000_000)), "headers": packed | kind(path)}
                seen_in(seen, keeps, 413)(path, "post", **zeros)
        for path, method in OPERATIONS:
            if "health" not in path:
                seen_in(seen, shut, 401)(path, method)
    documented = {
        (path, way, int(status)) for path, way in OPERATIONS for status in openapi.PATHS[path][way]["responses"]
    }
    assert seen == documented


def kind(path: str) -> dict[str, str]:
    return {"content-type": "multipart/form-data; boundary=x"} if path == "/v1/corrections" else {}


def failing(fault: Exception) -> Callable[..., Any]:
    async def fails(*_: Any) -> None:
        raise fault

    return fails


def too_slow(seen: Seen, server: Running, path: str) -> None:
    target = path.format(name="colours", version=server.model.served.version)
    told = kind(path).get("content-type", "application/json")
    head = f"POST {target} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {told}\r\nContent-Length: 90\r\n\r\n--x"
    with socket.create_connection(("127.0.0.1", server.port)) as slow:
        slow.sendall(head.encode())
        answer, _, content = said(slow).partition(b"\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 408"), answer
    fits(path, "post", 408, "application/json", content)
    seen.add((path, "post", 408))
