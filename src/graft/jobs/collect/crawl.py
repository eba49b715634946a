"""URLs to pictures in one folder, by several threads: politely, within limits, each with its outcome."""

from __future__ import annotations

import hashlib
import queue
import random
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from graft.jobs.collect.faults import Failed, Refused
from graft.jobs.collect.fetch import Answer, Client, parsed, redirected
from graft.jobs.collect.limits import Limits
from graft.jobs.collect.manifest import FAILED, FETCHED, REFUSED, Outcome
from graft.jobs.collect.picture import examined
from graft.jobs.collect.robots import Robots
from graft.jobs.collect.turns import Errand, Turns
from graft.model import whole

PASSING = (408, 425, 429, 500, 502, 503, 504)  # another time the same request may be answered
NAMED = 16  # hexadecimal digits of the SHA-256 that a file is called by


def crawl(urls: Sequence[str], folder: Path, limits: Limits) -> Iterator[Outcome]:
    """Fetch each URL into `folder`, under a name made of its content; outcomes come as they are ready.

    URLs that were not reached before the time was up have none. Raises OSError where a file cannot be written.
    """
    errands: list[Errand] = []
    for url in urls:
        try:
            errands.append(Errand(url, parsed(url)))
        except Refused as fault:
            yield _fault(url, fault)
    visit = _Visit(errands, folder, limits)
    threads = [threading.Thread(target=visit.work, daemon=True) for _ in range(min(limits.threads, len(errands)))]
    for thread in threads:  # daemons: Ctrl-C need not wait for a slow host
        thread.start()
    try:
        yield from visit.outcomes(len(threads))
    finally:
        visit.turns.stop()
        visit.client.close()


class _Visit:
    """What the threads of one crawl share."""

    def __init__(self, errands: Sequence[Errand], folder: Path, limits: Limits) -> None:
        self.client, self.turns = Client(limits), Turns(errands, limits)
        self._robots = Robots(self.client, limits)
        self._given_up: dict[str, str] = {}  # hosts that are not asked again in this run, and why
        self._folder, self._limits = folder, limits
        self._ready: queue.SimpleQueue[Outcome | BaseException | None] = queue.SimpleQueue()

    def outcomes(self, threads: int) -> Iterator[Outcome]:
        """What the threads bring, until all of them have ended."""
        while threads:
            ready = self._ready.get()
            if isinstance(ready, BaseException):
                raise ready
            if ready is None:
                threads -= 1
            else:
                yield ready

    def work(self) -> None:
        """What each thread does. An exception that is no fault of a host is raised by `outcomes`."""
        try:
            while errand := self.turns.take():
                step = self._step(errand)
                if isinstance(step, Outcome):
                    self._ready.put(step)
                    self.turns.release(errand)
                else:
                    self.turns.release(errand, *step)
            self._ready.put(None)
        except BaseException as error:
            self._ready.put(error)

    def _step(self, errand: Errand) -> Outcome | tuple[Errand, float]:
        """One request: the outcome, or the errand as it goes on, and after how many seconds."""
        try:
            if reason := self._given_up.get(errand.host):
                raise Failed(reason, final=True)
            self.turns.slow_down(errand.host, self._robots.check(errand.at))
            answer = self.client.get(errand.at, self._limits.size)
            if answer.location:
                return _moved(errand, answer.location, self._limits.redirects), 0.0
            return self._kept(errand, answer)
        except Failed as fault:
            return self._again(errand, fault)
        except Refused as fault:
            return _fault(errand.url, fault, str(errand.at))

    def _again(self, errand: Errand, fault: Failed) -> Outcome | tuple[Errand, float]:
        """Another attempt later, unless there were enough or the host is not to be asked any more."""
        wait = self._limits.backoff * 2**errand.faults * random.uniform(0.8, 1.2)  # not all at the same moment
        if fault.wait is not None:
            wait = fault.wait
            self.turns.hold(errand.host, wait)
        if fault.final or wait > self._limits.patience:
            self._given_up[errand.host] = fault.reason
            self.turns.give_up(errand.host)
        if errand.host in self._given_up or errand.faults + 1 >= self._limits.attempts:
            return _fault(errand.url, fault, str(errand.at))
        return replace(errand, faults=errand.faults + 1), wait

    def _kept(self, errand: Errand, answer: Answer) -> Outcome:
        """The picture written to the folder."""
        if answer.status in PASSING:
            raise Failed(f"HTTP {answer.status}", wait=answer.retry_after)
        if answer.status != 200:
            raise Refused(f"HTTP {answer.status}")
        suffix, width, height = examined(answer.body)
        digest = hashlib.sha256(answer.body).hexdigest()
        name = f"{digest[:NAMED]}{suffix}"
        with whole.file(self._folder / name) as file:
            file.write(answer.body)
        size, when = len(answer.body), _now()
        return Outcome(errand.url, FETCHED, "", str(errand.at), name, digest, size, width, height, when)


def _moved(errand: Errand, location: str, most: int) -> Errand:
    if errand.hops >= most:
        raise Refused("too many redirects", f"more than {most}")
    return replace(errand, at=redirected(errand.at, location), hops=errand.hops + 1)


def _fault(url: str, fault: Refused, final_url: str = "") -> Outcome:
    return Outcome(url, FAILED if isinstance(fault, Failed) else REFUSED, fault.reason, final_url, when=_now())


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
