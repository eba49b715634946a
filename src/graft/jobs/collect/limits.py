"""Limits of a collection in size, time and request rate, and the errors of fetching."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class FetchLimits:
    """Limits of a collection, times in seconds. The defaults suit the open web; `graft collect` has some as options."""

    max_urls: int | None = None  # URLs to fetch in one run; None: all
    time_limit: float = 24 * 3600.0  # of one run
    max_bytes: int = 20_000_000  # bytes of one image
    request_timeout: float = 60.0  # one request in total, however slowly bytes arrive
    connect_timeout: float = 10.0
    read_timeout: float = 20.0  # without a single byte
    max_redirects: int = 5
    max_attempts: int = 3  # for transient errors
    backoff: float = 1.0  # before the second attempt; doubled for each further one
    max_retry_after: float = 120.0  # a host that asks for more is given up
    rate: float = 5.0  # requests a second to one host
    per_host: int = 4  # requests at a time to one host
    threads: int = 16
    allow_private: bool = False


class FetchError(Exception):
    """Permanent error: another attempt would give the same."""

    def __init__(self, reason: str, detail: str = "") -> None:
        self.reason = f"{reason}: {detail}" if detail else reason
        super().__init__(self.reason)


class TransientFetchError(FetchError):
    """Transient error: a later attempt may succeed, after `wait` seconds if the server said so.

    With `final` there is no further attempt in this run.
    """

    def __init__(self, reason: str, detail: str = "", *, wait: float | None = None, final: bool = False) -> None:
        super().__init__(reason, detail)
        self.wait, self.final = wait, final
