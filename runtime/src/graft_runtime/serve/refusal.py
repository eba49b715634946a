"""Why a request gets no answer: a status, a word for programs, and a sentence for people."""

from __future__ import annotations

import json


class Refusal(Exception):
    """`status` is the one of HTTP, `code` a word that never changes; `retry` seconds later it may go well."""

    def __init__(self, status: int, code: str, message: str, retry: int | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.retry = status, code, message, retry

    @property
    def headers(self) -> dict[str, str]:
        """What goes before the body."""
        asked = {"www-authenticate": "Bearer"} if self.status == 401 else {}
        asked |= {"accept-encoding": "gzip, deflate"} if self.code == "wrong_encoding" else {}
        asked |= {"connection": "close"} if self.code == "wrong_http" else {}  # where the next begins nobody knows
        return asked | ({} if self.retry is None else {"retry-after": str(self.retry)})

    def body(self, path: str = "") -> bytes:
        """The answer's body: JSON, below /v2 as the Open Inference Protocol has it."""
        told = self.message if path.startswith("/v2") else {"code": self.code, "message": self.message}
        return json.dumps({"error": told}).encode()
