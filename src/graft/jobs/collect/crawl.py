"""Multi-threaded image crawler that obeys robots.txt and per-host rate limits."""

from __future__ import annotations

import hashlib
import heapq
import itertools
import queue
import random
import threading
import time
from collections import Counter, defaultdict, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import httpx2
from protego import Protego

from graft import atomic
from graft.jobs.collect.fetch import (
    AGENT,
    Client,
    FetchError,
    FetchLimits,
    HttpResponse,
    TransientFetchError,
    inspect_image,
    parse_url,
    resolve_redirect,
)
from graft.jobs.collect.manifest import FAILED, FETCHED, REFUSED, Outcome

MAX_ROBOTS_BYTES = 500_000  # read from a robots.txt; RFC 9309 asks for at least 500 KiB
MAX_SLEEP = 3600.0  # seconds; an idle thread then checks again
RETRY_STATUSES = (408, 425, 429, 500, 502, 503, 504)  # the same request may succeed later
NAME_DIGITS = 16  # hexadecimal digits of the SHA-256 in a file's name


def crawl(urls: Sequence[str], folder: Path, limits: FetchLimits) -> Iterator[Outcome]:
    """Fetch each URL into `folder`, named by content; yield outcomes as they are ready.

    URLs that were not reached within the time limit have none. Raises OSError where a file cannot be written.
    """
    tasks: list[FetchTask] = []
    for url in urls:
        try:
            tasks.append(FetchTask(url, parse_url(url)))
        except FetchError as fault:
            yield _fault_outcome(url, fault)
    crawler = _Crawler(tasks, folder, limits)
    threads = [threading.Thread(target=crawler.run_thread, daemon=True) for _ in range(min(limits.threads, len(tasks)))]
    for thread in threads:  # daemons: Ctrl-C does not wait for a slow host
        thread.start()
    try:
        yield from crawler.outcomes(len(threads))
    finally:
        crawler.limiter.stop()
        crawler.client.close()


@dataclass(frozen=True)
class FetchTask:
    """State of fetching one URL: where redirects led, how many there were, and how many attempts failed."""

    url: str
    current_url: httpx2.URL
    redirects: int = 0
    failures: int = 0

    @property
    def host(self) -> str:
        return self.current_url.host


class _Crawler:
    """State shared by the threads of one crawl."""

    def __init__(self, tasks: Sequence[FetchTask], folder: Path, limits: FetchLimits) -> None:
        self.client, self.limiter = Client(limits), HostLimiter(tasks, limits)
        self._robots = RobotsRules(self.client, limits)
        self._given_up: dict[str, str] = {}  # hosts not asked again in this run, with the reason
        self._folder, self._limits = folder, limits
        self._ready: queue.SimpleQueue[Outcome | BaseException | None] = queue.SimpleQueue()

    def outcomes(self, threads: int) -> Iterator[Outcome]:
        """Yield the outcomes of all threads until the last has ended; raise the error of one that crashed."""
        while threads:
            ready = self._ready.get()
            if isinstance(ready, BaseException):
                raise ready
            if ready is None:
                threads -= 1
            else:
                yield ready

    def run_thread(self) -> None:
        """Fetch tasks until there are none. An unexpected exception is raised again by `outcomes`."""
        try:
            while task := self.limiter.acquire():
                step = self._fetch_once(task)
                if isinstance(step, Outcome):
                    self._ready.put(step)
                    self.limiter.release(task)
                else:
                    self.limiter.release(task, *step)
            self._ready.put(None)
        except BaseException as error:
            self._ready.put(error)

    def _fetch_once(self, task: FetchTask) -> Outcome | tuple[FetchTask, float]:
        """Send one request; return the outcome, or the next task and the seconds to wait before it."""
        try:
            if reason := self._given_up.get(task.host):
                raise TransientFetchError(reason, final=True)
            self.limiter.slow_down_host(task.host, self._robots.check(task.current_url))
            response = self.client.get(task.current_url, self._limits.max_bytes)
            if response.location:
                return _follow_redirect(task, response.location, self._limits.max_redirects), 0.0
            return self._save_image(task, response)
        except TransientFetchError as fault:
            return self._schedule_retry(task, fault)
        except FetchError as fault:
            return _fault_outcome(task.url, fault, str(task.current_url))

    def _schedule_retry(self, task: FetchTask, fault: TransientFetchError) -> Outcome | tuple[FetchTask, float]:
        """Schedule another attempt, unless there were enough or the host is given up."""
        wait = self._limits.backoff * 2**task.failures * random.uniform(0.8, 1.2)  # jitter: not all at once
        if fault.wait is not None:
            wait = fault.wait
            self.limiter.pause_host(task.host, wait)
        if fault.final or wait > self._limits.max_retry_after:
            self._given_up[task.host] = fault.reason
            self.limiter.give_up_host(task.host)
        if task.host in self._given_up or task.failures + 1 >= self._limits.max_attempts:
            return _fault_outcome(task.url, fault, str(task.current_url))
        return replace(task, failures=task.failures + 1), wait

    def _save_image(self, task: FetchTask, response: HttpResponse) -> Outcome:
        """Write the image to the folder. Raises FetchError for a response that is not an image."""
        if response.status in RETRY_STATUSES:
            raise TransientFetchError(f"HTTP {response.status}", wait=response.retry_after)
        if response.status != 200:
            raise FetchError(f"HTTP {response.status}")
        suffix, width, height = inspect_image(response.body)
        digest = hashlib.sha256(response.body).hexdigest()
        name = f"{digest[:NAME_DIGITS]}{suffix}"
        with atomic.atomic_file(self._folder / name) as file:
            file.write(response.body)
        size, when = len(response.body), _now()
        return Outcome(task.url, FETCHED, "", str(task.current_url), name, digest, size, width, height, when)


def _follow_redirect(task: FetchTask, location: str, most: int) -> FetchTask:
    if task.redirects >= most:
        raise FetchError("too many redirects", f"more than {most}")
    return replace(task, current_url=resolve_redirect(task.current_url, location), redirects=task.redirects + 1)


def _fault_outcome(url: str, fault: FetchError, final_url: str = "") -> Outcome:
    return Outcome(
        url, FAILED if isinstance(fault, TransientFetchError) else REFUSED, fault.reason, final_url, when=_now()
    )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


# --- rate limits per host ---------------------------------------------------------------------------------------------


class HostLimiter:
    """Per-host rate limiter: threads `acquire` tasks, for each host in the order of the list, and `release` them.

    A host is in the heap at most once: while it has tasks waiting and fewer than `per_host` threads.
    """

    def __init__(self, tasks: Sequence[FetchTask], limits: FetchLimits) -> None:
        self._per_host, self._until = limits.per_host, time.monotonic() + limits.time_limit
        self._changed = threading.Condition()
        self._waiting: defaultdict[str, deque[FetchTask]] = defaultdict(deque)
        self._active: Counter[str] = Counter()
        self._intervals: defaultdict[str, float] = defaultdict(lambda: 1 / limits.rate)
        self._next_time: defaultdict[str, float] = defaultdict(float)  # when a host may be asked again
        self._heap: list[tuple[float, str]] = []
        self._heaped: set[str] = set()
        self._retries: list[tuple[float, int, FetchTask]] = []
        self._number = itertools.count()
        self._unfinished = len(tasks)
        for task in tasks:
            self._add_task(task)

    def acquire(self) -> FetchTask | None:
        """Wait for the next task whose host may be asked; None when all are done or the time is up."""
        with self._changed:
            while self._unfinished and (now := time.monotonic()) < self._until:
                while self._retries and self._retries[0][0] <= now:
                    self._add_task(heapq.heappop(self._retries)[2])
                if self._heap and self._heap[0][0] <= now:
                    if task := self._pop_task(now):
                        return task
                else:
                    soon = min(each[0][0] for each in (self._heap, self._retries, [(now + MAX_SLEEP,)]) if each)
                    self._changed.wait(min(soon, self._until) - now)
            return None

    def release(self, task: FetchTask, again: FetchTask | None = None, wait: float = 0.0) -> None:
        """Free the task's host; a task to go on with, `again`, is queued after `wait` seconds."""
        with self._changed:
            self._active[task.host] -= 1
            self._queue_host(task.host)
            if again is None:
                self._unfinished -= 1
            else:
                heapq.heappush(self._retries, (time.monotonic() + wait, next(self._number), again))
            self._changed.notify_all()

    def pause_host(self, host: str, wait: float) -> None:
        """Send the host no request for so many seconds."""
        with self._changed:
            self._next_time[host] = max(self._next_time[host], time.monotonic() + wait)

    def slow_down_host(self, host: str, gap: float) -> None:
        """Leave at least so many seconds between two requests to the host."""
        with self._changed:
            if self._intervals[host]:
                self._intervals[host] = max(self._intervals[host], gap)

    def give_up_host(self, host: str) -> None:
        """Release the host's tasks without delay: they fail at once, without a request."""
        with self._changed:
            self._intervals[host] = self._next_time[host] = 0.0
            self._changed.notify_all()

    def stop(self) -> None:
        """Hand out no further task."""
        with self._changed:
            self._until = 0.0
            self._changed.notify_all()

    def _pop_task(self, now: float) -> FetchTask | None:
        """Return a task of the host at the top of the heap; None if the host was paused meanwhile."""
        _, host = heapq.heappop(self._heap)
        self._heaped.discard(host)
        task = None
        if self._next_time[host] <= now:
            task = self._waiting[host].popleft()
            self._active[host] += 1
            self._next_time[host] = now + self._intervals[host]
        self._queue_host(host)
        return task

    def _add_task(self, task: FetchTask) -> None:
        self._waiting[task.host].append(task)
        self._queue_host(task.host)

    def _queue_host(self, host: str) -> None:
        if self._waiting[host] and self._active[host] < self._per_host and host not in self._heaped:
            heapq.heappush(self._heap, (self._next_time[host], host))
            self._heaped.add(host)


# --- robots.txt -------------------------------------------------------------------------------------------------------


class RobotsRules:
    """Rules of robots.txt, fetched once per host. A missing file (4xx) allows all; an unreachable one (5xx) nothing."""

    def __init__(self, client: Client, limits: FetchLimits) -> None:
        self._client, self._limits = client, limits
        self._rules: dict[str, Protego] = {}
        self._faults: Counter[str] = Counter()
        self._locks: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)

    def check(self, url: httpx2.URL) -> float:
        """Return the host's crawl delay in seconds. Raises FetchError for a forbidden URL, or TransientFetchError."""
        home = str(url.copy_with(raw_path=b"/robots.txt"))
        with self._locks[home]:  # one thread asks, the others wait for it
            if home not in self._rules:
                self._rules[home] = self._read(home)
        rules = self._rules[home]
        if not rules.can_fetch(str(url), AGENT):
            raise FetchError("forbidden by robots.txt")
        return float(rules.crawl_delay(AGENT) or 0)

    def _read(self, home: str) -> Protego:
        if self._faults[home] >= self._limits.max_attempts:
            raise TransientFetchError("host does not answer", f"{home} could not be read", final=True)
        try:
            return Protego.parse(self._fetch_text(home))
        except TransientFetchError:
            self._faults[home] += 1
            raise

    def _fetch_text(self, home: str) -> str:
        url = parse_url(home)
        for _ in range(self._limits.max_redirects + 1):
            response = self._client.get(url, MAX_ROBOTS_BYTES, truncate=True)
            if response.status >= 500 or response.status == 429:
                raise TransientFetchError(
                    "robots.txt cannot be read", f"HTTP {response.status}", wait=response.retry_after
                )
            if not response.location:
                return response.body.decode("utf-8", "replace")
            url = resolve_redirect(url, response.location)
        return ""  # too many redirects: as a missing file, which RFC 9309 allows
