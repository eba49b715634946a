"""What the robots.txt of a host allows us: RFC 9309, as read by Protego, with patterns such as `/*.jpg$`."""

from __future__ import annotations

import threading
from collections import Counter, defaultdict

import httpx2
from protego import Protego

from graft.jobs.collect.faults import Failed, Refused
from graft.jobs.collect.fetch import AGENT, Client, parsed, redirected
from graft.jobs.collect.limits import Limits

MOST = 500_000  # bytes of a robots.txt that are read, as the RFC asks


class Robots:
    """Asks each host once. No such file (4xx) allows everything; one that cannot be had (5xx) allows nothing."""

    def __init__(self, client: Client, limits: Limits) -> None:
        self._client, self._limits = client, limits
        self._rules: dict[str, Protego] = {}
        self._faults: Counter[str] = Counter()
        self._locks: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)

    def check(self, url: httpx2.URL) -> float:
        """Seconds that the host wants between requests. Raises Refused where it forbids the URL, or Failed."""
        home = str(url.copy_with(raw_path=b"/robots.txt"))
        with self._locks[home]:  # one thread asks, the others wait for it
            if home not in self._rules:
                self._rules[home] = self._read(home)
        rules = self._rules[home]
        if not rules.can_fetch(str(url), AGENT):
            raise Refused("forbidden by robots.txt")
        return float(rules.crawl_delay(AGENT) or 0)

    def _read(self, home: str) -> Protego:
        if self._faults[home] >= self._limits.attempts:
            raise Failed("host does not answer", f"{home} could not be read", final=True)
        try:
            return Protego.parse(self._text(home))
        except Failed:
            self._faults[home] += 1
            raise

    def _text(self, home: str) -> str:
        url = parsed(home)
        for _ in range(self._limits.redirects + 1):
            answer = self._client.get(url, MOST, cut=True)
            if answer.status >= 500 or answer.status == 429:
                raise Failed("robots.txt cannot be read", f"HTTP {answer.status}", wait=answer.retry_after)
            if not answer.location:
                return answer.body.decode("utf-8", "replace")
            url = redirected(url, answer.location)
        return ""  # sent from here to there for ever: as if there were none
