"""Errors of requests: an HTTP status, a code for programs, and a message for people."""

from __future__ import annotations

import json


class RequestError(Exception):
    """`status` is the HTTP status, `code` a stable word; after `retry` seconds the request may succeed."""

    def __init__(self, status: int, code: str, message: str, retry: int | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.retry = status, code, message, retry

    @property
    def headers(self) -> dict[str, str]:
        """The headers of the response."""
        headers = {"www-authenticate": "Bearer"} if self.status == 401 else {}
        headers |= {"accept-encoding": "gzip, deflate"} if self.code == "wrong_encoding" else {}
        headers |= {"connection": "close"} if self.code == "wrong_http" else {}  # where the next begins nobody knows
        return headers | ({} if self.retry is None else {"retry-after": str(self.retry)})

    def body(self, path: str = "") -> bytes:
        """Return the body of the response: JSON, below /v2 as the Open Inference Protocol has it."""
        error = self.message if path.startswith("/v2") else {"code": self.code, "message": self.message}
        return json.dumps({"error": error}).encode()
