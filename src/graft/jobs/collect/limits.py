"""How much, how long and how often: what a collection may cost its user, and the hosts that it asks."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Times in seconds. The defaults suit pictures of the open web; the command line offers those that users need."""

    count: int | None = None  # URLs to fetch in one run; None: all
    total: float = 24 * 3600.0  # of one run
    size: int = 20_000_000  # bytes of one picture
    whole: float = 60.0  # one request from the first byte to the last, however slowly they drip
    connect: float = 10.0
    silence: float = 20.0  # without a single byte
    redirects: int = 5
    attempts: int = 3  # where the fault may pass
    backoff: float = 1.0  # before the second attempt; doubled for each further one
    patience: float = 120.0  # the longest Retry-After that is waited for
    rate: float = 5.0  # requests a second to one host
    per_host: int = 4  # requests at a time to one host
    threads: int = 16
    allow_private: bool = False
