"""Middleware before every route: access, number of requests, security headers, log."""

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
from graft_runtime.serve.errors import RequestError
from graft_runtime.serve.metrics import Metrics

PUBLIC_PATHS = ("/v2/health/live", "/v2/health/ready")  # for whoever starts and stops servers
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "media-src 'self' blob:; form-action 'none'; frame-ancestors 'none'; base-uri 'none'"
)
SECURITY_HEADERS = {
    "content-security-policy": CONTENT_SECURITY_POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(self), microphone=(), geolocation=()",
}
CLIENT_CLOSED = 499  # in the log alone: the client did not wait for its answer

log = logging.getLogger("graft.serve")


class GuardMiddleware:
    """ASGI middleware. Clients must send `token`; if it is empty, only the Host names `hosts` are accepted."""

    def __init__(self, app: ASGIApp, bounds: Bounds, metrics: Metrics, token: str, hosts: Collection[str]) -> None:
        self.app, self.bounds, self.metrics, self.token, self.hosts = app, bounds, metrics, token, hosts
        self.working = 0

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Coroutine[Any, Any, None]:
        """Handle one request: admit or refuse it, answer, count and log it."""
        return self._answer(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        began, answer = time.perf_counter(), _Response(send)
        _strip_origin(scope)
        note = scope.setdefault("state", {})["note"] = dict[str, Any]()
        scope["app"] = self  # else Starlette answers for itself what it has no route for
        try:
            self._admit(scope)
            with _CountedRequest(self, receive) as whole:
                await self.app(scope, whole if scope["method"] == "POST" else receive, answer)
        except* RequestError as group:
            await answer.refuse(_first_error(group), scope["path"])
        except* HTTPException as group:
            await answer.refuse(
                _convert_http_exception(_first_error(group)), scope["path"], _first_error(group).headers
            )
        except* (ClientDisconnect, asyncio.CancelledError):
            answer.status = CLIENT_CLOSED
        except* Exception as group:
            note["error"] = "".join(traceback.format_exception(_first_error(group)))
            await answer.refuse(_convert_failure(_first_error(group)), scope["path"])
        self._log_request(scope, answer.status, time.perf_counter() - began, note)

    def _admit(self, scope: Scope) -> None:
        """Raise RequestError for a request without access, and for one too many."""
        headers, path = Headers(scope=scope), scope["path"]
        if "transfer-encoding" in headers and "content-length" in headers:
            # A proxy may read it in the one way and we in the other: where the next request begins is then open.
            raise RequestError(400, "wrong_http", "Send Content-Length or Transfer-Encoding, not both.")
        if not self.token and _host_name(headers.get("host", "")) not in self.hosts:
            # A page of somebody else whose name was made to point to this machine (DNS rebinding) ends here.
            raise RequestError(403, "wrong_host", f"This server answers to {', '.join(sorted(self.hosts))} only.")
        origin = headers.get("origin")
        if origin and origin.partition("://")[2] != headers.get("host"):
            raise RequestError(403, "wrong_origin", "Pages of other servers may not ask this one.")
        if not path.startswith(("/v1", "/v2", "/metrics")) or path in PUBLIC_PATHS:
            return
        if self.token and not _is_authorized(headers.get("authorization", ""), self.token):
            raise RequestError(401, "no_token", "Send the server's token: Authorization: Bearer TOKEN.")
        if scope["method"] == "POST":
            self.check()

    def check(self) -> None:
        """Raise RequestError at the limit of requests under way: those that have arrived completely."""
        if self.working >= self.bounds.requests:
            raise RequestError(429, "busy", f"{self.working} requests are under way already. Try again later.", retry=1)

    def _log_request(self, scope: Scope, status: int, seconds: float, note: dict[str, Any]) -> None:
        """Count and log a request: sizes and times, never an image."""
        route = getattr(scope.get("endpoint"), "__name__", "other")
        self.metrics.requests.labels(route, str(status)).inc()
        line = {"time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "method": scope["method"], "path": scope["path"][:200]}
        line |= {"status": status, "milliseconds": round(1000 * seconds, 1)}
        log.log(logging.ERROR if status == 500 else logging.INFO, json.dumps(line | note))


class _CountedRequest:
    """Receive a request, and count it as under way once all of it has arrived."""

    def __init__(self, guard: GuardMiddleware, receive: Receive) -> None:
        self._guard, self._receive, self._is_counted = guard, receive, False

    async def __call__(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request" and not message.get("more_body") and not self._is_counted:
            self._guard.check()
            self._guard.working += 1
            self._is_counted = True
        return message

    def __enter__(self) -> _CountedRequest:
        return self

    def __exit__(self, *_: object) -> None:
        self._guard.working -= self._is_counted


class _Response:
    """Send a response with security headers."""

    def __init__(self, send: Send) -> None:
        self._send, self.status = send, 0

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            for name, value in SECURITY_HEADERS.items():
                headers.setdefault(name, value)
            headers.setdefault("cache-control", "no-store")
        await self._send(message)

    async def refuse(self, refusal: RequestError, path: str, headers: Mapping[str, str] | None = None) -> None:
        """Send the error, unless a response has begun."""
        if self.status:
            return
        body = refusal.body(path)
        all_headers = (
            refusal.headers
            | dict(headers or {})
            | {"content-type": "application/json", "content-length": str(len(body))}
        )
        raw = [(name.encode(), value.encode()) for name, value in all_headers.items()]
        await self({"type": "http.response.start", "status": refusal.status, "headers": raw})
        await self({"type": "http.response.body", "body": body})


def log_to_stderr() -> None:
    """Log to standard error as lines of JSON."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)  # it warns of what strangers send


def _first_error(group: BaseExceptionGroup[Any]) -> Any:
    """Return the first exception of a group: one stands for those of several images."""
    fault: BaseException = group
    while isinstance(fault, BaseExceptionGroup):
        fault = fault.exceptions[0]
    return fault


def _convert_http_exception(error: HTTPException) -> RequestError:
    """Convert an error of Starlette: a path or method that does not exist."""
    code = {404: "not_found", 405: "wrong_method"}.get(error.status_code, "refused")
    return RequestError(error.status_code, code, f"{error.detail}. GET /openapi.json lists what there is.")


def _convert_failure(error: BaseException) -> RequestError:
    """Convert an unexpected exception; running out of open files is temporary (503)."""
    if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
        text = "The server has as many files and connections open as the system allows. Try again soon."
        return RequestError(503, "busy", text, retry=1)
    return RequestError(
        500, "failed", "The server failed at this request; its log says why. The next request is not harmed."
    )


def _strip_origin(scope: Scope) -> None:
    """Reduce an absolute-form target to its path; its host replaces the Host header (RFC 9112, 3.2.2)."""
    kind, _, rest = scope["raw_path"].partition(b"://")
    if kind.lower() in (b"http", b"https"):
        host, _, path = rest.partition(b"/")
        scope["path"], scope["raw_path"] = "/" + unquote(path.decode()), b"/" + path
        scope["headers"] = [(b"host", host), *(each for each in scope["headers"] if each[0] != b"host")]


def _host_name(host: str) -> str:
    """Return a Host header without its port; an IPv6 address is in brackets."""
    found = re.fullmatch(r"(\[[^]]*\]|[^:]*)(:\d*)?", host.lower())
    return found[1] if found else ""


def _is_authorized(header: str, token: str) -> bool:
    kind, _, given = header.partition(" ")
    same = hmac.compare_digest(given.strip().encode(), token.encode())  # takes as long for any wrong one
    return same and kind.lower() == "bearer"
