"""Whose turn it is: no host is asked more often, or by more threads at a time, than it should have to bear."""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections import Counter, defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass

import httpx2

from graft.jobs.collect.limits import Limits

LONG = 3600.0  # the longest sleep, after which one looks again


@dataclass(frozen=True)
class Errand:
    """One URL of the list, under way: where it has been sent to, how often, and what went wrong so far."""

    url: str
    at: httpx2.URL
    hops: int = 0
    faults: int = 0

    @property
    def host(self) -> str:
        return self.at.host


class Turns:
    """Hands out errands to threads, host by host in the order of the list; each comes back by `release`.

    A host stands in the heap at most once: while it has errands waiting and fewer than `per_host` threads.
    """

    def __init__(self, errands: Sequence[Errand], limits: Limits) -> None:
        self._per_host, self._until = limits.per_host, time.monotonic() + limits.total
        self._changed = threading.Condition()
        self._waiting: defaultdict[str, deque[Errand]] = defaultdict(deque)
        self._asking: Counter[str] = Counter()
        self._gap: defaultdict[str, float] = defaultdict(lambda: 1 / limits.rate)
        self._next: defaultdict[str, float] = defaultdict(float)  # when a host may be asked again
        self._heap: list[tuple[float, str]] = []
        self._heaped: set[str] = set()
        self._later: list[tuple[float, int, Errand]] = []
        self._number = itertools.count()
        self._open = len(errands)
        for errand in errands:
            self._add(errand)

    def take(self) -> Errand | None:
        """The next errand, as soon as its host may be asked; None when all are done or the time is up."""
        with self._changed:
            while self._open and (now := time.monotonic()) < self._until:
                while self._later and self._later[0][0] <= now:
                    self._add(heapq.heappop(self._later)[2])
                if self._heap and self._heap[0][0] <= now:
                    if errand := self._first(now):
                        return errand
                else:
                    soon = min(each[0][0] for each in (self._heap, self._later, [(now + LONG,)]) if each)
                    self._changed.wait(min(soon, self._until) - now)
            return None

    def release(self, errand: Errand, again: Errand | None = None, wait: float = 0.0) -> None:
        """The host has answered; if the errand is not over, it goes on, after a while."""
        with self._changed:
            self._asking[errand.host] -= 1
            self._queue(errand.host)
            if again is None:
                self._open -= 1
            else:
                heapq.heappush(self._later, (time.monotonic() + wait, next(self._number), again))
            self._changed.notify_all()

    def hold(self, host: str, wait: float) -> None:
        """Leave the whole host alone for so many seconds."""
        with self._changed:
            self._next[host] = max(self._next[host], time.monotonic() + wait)

    def slow_down(self, host: str, gap: float) -> None:
        """So many seconds at least between two requests to the host."""
        with self._changed:
            if self._gap[host]:
                self._gap[host] = max(self._gap[host], gap)

    def give_up(self, host: str) -> None:
        """It is not asked any more: its errands may end at once."""
        with self._changed:
            self._gap[host] = self._next[host] = 0.0
            self._changed.notify_all()

    def stop(self) -> None:
        """No further errand is handed out."""
        with self._changed:
            self._until = 0.0
            self._changed.notify_all()

    def _first(self, now: float) -> Errand | None:
        """An errand of the host at the top of the heap, unless that was told to be held meanwhile."""
        _, host = heapq.heappop(self._heap)
        self._heaped.discard(host)
        errand = None
        if self._next[host] <= now:
            errand = self._waiting[host].popleft()
            self._asking[host] += 1
            self._next[host] = now + self._gap[host]
        self._queue(host)
        return errand

    def _add(self, errand: Errand) -> None:
        self._waiting[errand.host].append(errand)
        self._queue(errand.host)

    def _queue(self, host: str) -> None:
        if self._waiting[host] and self._asking[host] < self._per_host and host not in self._heaped:
            heapq.heappush(self._heap, (self._next[host], host))
            self._heaped.add(host)
