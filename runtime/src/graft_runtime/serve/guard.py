"""What stands before every route: who may ask, how many at once, and a line in the log for each."""

from __future__ import annotations

import asyncio
import errno
import hmac
import json
import logging
import re
import sys
import time
import traceback
from collections.abc import Collection, Coroutine, Mapping
from typing import Any
from urllib.parse import unquote

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from graft_runtime.serve.bounds import Bounds
from graft_runtime.serve.metrics import Metrics
from graft_runtime.serve.refusal import Refusal

OPEN = ("/v2/health/live", "/v2/health/ready")  # for whoever starts and stops servers
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "media-src 'self' blob:; form-action 'none'; frame-ancestors 'none'; base-uri 'none'"
)
SAFE = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(self), microphone=(), geolocation=()",
}
GONE = 499  # in the log alone: the client did not wait for its answer

log = logging.getLogger("graft.serve")


class Guard:
    """`token` is what a client must show, empty for none: then only names of this machine, `hosts`, are answered to."""

    def __init__(self, app: ASGIApp, bounds: Bounds, metrics: Metrics, token: str, hosts: Collection[str]) -> None:
        self.app, self.bounds, self.metrics, self.token, self.hosts = app, bounds, metrics, token, hosts
        self.working = 0

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Coroutine[Any, Any, None]:
        """One request: admitted or refused, answered, counted, logged."""
        return self._answer(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        began, answer = time.perf_counter(), _Answer(send)
        _without_address(scope)
        note = scope.setdefault("state", {})["note"] = dict[str, Any]()
        scope["app"] = self  # else Starlette answers for itself what it has no route for
        try:
            self._admit(scope)
            with _Whole(self, receive) as whole:
                await self.app(scope, whole if scope["method"] == "POST" else receive, answer)
        except* Refusal as group:
            await answer.refuse(_first(group), scope["path"])
        except* HTTPException as group:
            await answer.refuse(_known(_first(group)), scope["path"], _first(group).headers)
        except* (ClientDisconnect, asyncio.CancelledError):
            answer.status = GONE
        except* Exception as group:
            note["error"] = "".join(traceback.format_exception(_first(group)))
            await answer.refuse(_failed(_first(group)), scope["path"])
        self._noted(scope, answer.status, time.perf_counter() - began, note)

    def _admit(self, scope: Scope) -> None:
        """Raises Refusal for a stranger, and for one too many."""
        headers, path = Headers(scope=scope), scope["path"]
        if "transfer-encoding" in headers and "content-length" in headers:
            # A proxy may read it in the one way and we in the other: where the next request begins is then open.
            raise Refusal(400, "wrong_http", "Send Content-Length or Transfer-Encoding, not both.")
        if not self.token and _name(headers.get("host", "")) not in self.hosts:
            # A page of somebody else whose name was made to point to this machine (DNS rebinding) ends here.
            raise Refusal(403, "wrong_host", f"This server answers to {', '.join(sorted(self.hosts))} only.")
        origin = headers.get("origin")
        if origin and origin.partition("://")[2] != headers.get("host"):
            raise Refusal(403, "wrong_origin", "Pages of other servers may not ask this one.")
        if not path.startswith(("/v1", "/v2", "/metrics")) or path in OPEN:
            return
        if self.token and not _shown(headers.get("authorization", ""), self.token):
            raise Refusal(401, "no_token", "Send the server's token: Authorization: Bearer TOKEN.")
        if scope["method"] == "POST":
            self.check()

    def check(self) -> None:
        """Raises Refusal where as many requests are under way as may be: those of which all has arrived."""
        if self.working >= self.bounds.requests:
            raise Refusal(429, "busy", f"{self.working} requests are under way already. Try again later.", retry=1)

    def _noted(self, scope: Scope, status: int, seconds: float, note: dict[str, Any]) -> None:
        """Sizes and times, never a picture."""
        route = getattr(scope.get("endpoint"), "__name__", "other")
        self.metrics.requests.labels(route, str(status)).inc()
        line = {"time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "method": scope["method"], "path": scope["path"][:200]}
        line |= {"status": status, "milliseconds": round(1000 * seconds, 1)}
        log.log(logging.ERROR if status == 500 else logging.INFO, json.dumps(line | note))


class _Whole:
    """A request as it is received, which takes one of the places from when all of it is there: waiting takes none."""

    def __init__(self, guard: Guard, receive: Receive) -> None:
        self._guard, self._receive, self._counts = guard, receive, False

    async def __call__(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request" and not message.get("more_body") and not self._counts:
            self._guard.check()
            self._guard.working += 1
            self._counts = True
        return message

    def __enter__(self) -> _Whole:
        return self

    def __exit__(self, *_: object) -> None:
        self._guard.working -= self._counts


class _Answer:
    """What is sent, with headers that keep a browser from doing more than the page asks for."""

    def __init__(self, send: Send) -> None:
        self._send, self.status = send, 0

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            for name, value in SAFE.items():
                headers.setdefault(name, value)
            headers.setdefault("cache-control", "no-store")
        await self._send(message)

    async def refuse(self, refusal: Refusal, path: str, headers: Mapping[str, str] | None = None) -> None:
        """The refusal, unless an answer has begun."""
        if self.status:
            return
        body = refusal.body(path)
        told = (
            refusal.headers
            | dict(headers or {})
            | {"content-type": "application/json", "content-length": str(len(body))}
        )
        raw = [(name.encode(), value.encode()) for name, value in told.items()]
        await self({"type": "http.response.start", "status": refusal.status, "headers": raw})
        await self({"type": "http.response.body", "body": body})


def written_to_stderr() -> None:
    """The log as lines of JSON."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)  # it warns of what strangers send


def _first(group: BaseExceptionGroup[Any]) -> Any:
    """One of the faults: those of several pictures of a request are told by the first."""
    fault: BaseException = group
    while isinstance(fault, BaseExceptionGroup):
        fault = fault.exceptions[0]
    return fault


def _known(error: HTTPException) -> Refusal:
    """What Starlette refuses: a path or method that is not there."""
    code = {404: "not_found", 405: "wrong_method"}.get(error.status_code, "refused")
    return Refusal(error.status_code, code, f"{error.detail}. GET /openapi.json lists what there is.")


def _failed(error: BaseException) -> Refusal:
    """What nobody foresaw, and what passes: no more files for this process, or for the machine."""
    if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
        text = "The server has as many files and connections open as the system allows. Try again soon."
        return Refusal(503, "busy", text, retry=1)
    return Refusal(
        500, "failed", "The server failed at this request; its log says why. The next request is not harmed."
    )


def _without_address(scope: Scope) -> None:
    """Where the target is a whole address, its host is the one that counts (RFC 9112, 3.2.2)."""
    kind, _, rest = scope["raw_path"].partition(b"://")
    if kind.lower() in (b"http", b"https"):
        host, _, path = rest.partition(b"/")
        scope["path"], scope["raw_path"] = "/" + unquote(path.decode()), b"/" + path
        scope["headers"] = [(b"host", host), *(each for each in scope["headers"] if each[0] != b"host")]


def _name(host: str) -> str:
    """A Host header without its port; an address of IPv6 stands in brackets."""
    found = re.fullmatch(r"(\[[^]]*\]|[^:]*)(:\d*)?", host.lower())
    return found[1] if found else ""


def _shown(header: str, token: str) -> bool:
    kind, _, given = header.partition(" ")
    same = hmac.compare_digest(given.strip().encode(), token.encode())  # takes as long for any wrong one
    return same and kind.lower() == "bearer"
