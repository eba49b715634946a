"""Rates, connections and pauses of each host hold with any number of threads."""

from __future__ import annotations

import threading
import time
from collections import Counter
from dataclasses import replace

from graft.jobs.collect.crawl import FetchTask, HostLimiter
from graft.jobs.collect.fetch import FetchLimits, parse_url

FAST = FetchLimits(rate=1e6, per_host=2)


def errands(**counts: int) -> list[FetchTask]:
    urls = [f"http://{host}/{number}" for host, count in counts.items() for number in range(count)]
    return [FetchTask(url, parse_url(url)) for url in urls]


def test_in_the_order_of_the_list_host_by_host() -> None:
    turns = HostLimiter(errands(a=3, b=1), FAST)
    taken = []
    while errand := turns.acquire():
        taken.append(errand.url[7:])
        turns.release(errand)
    assert [each for each in taken if each[0] == "a"] == ["a/0", "a/1", "a/2"]
    assert sorted(taken) == ["a/0", "a/1", "a/2", "b/0"]


def test_every_errand_once_and_never_too_many_at_a_host() -> None:
    turns = HostLimiter(errands(a=40, b=30, c=1), FAST)
    seen, now, most = Counter[str](), Counter[str](), Counter[str]()
    lock = threading.Lock()

    def work() -> None:
        while errand := turns.acquire():
            with lock:
                seen[errand.url] += 1
                now[errand.host] += 1
                most[errand.host] = max(most[errand.host], now[errand.host])
            time.sleep(0.001)
            with lock:
                now[errand.host] -= 1
            again = replace(errand, failures=1) if errand.failures == 0 and errand.url.endswith("5") else None
            turns.release(errand, again, 0.01)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert len(seen) == 71
    assert all(count == 1 + url.endswith("5") for url, count in seen.items())
    assert most == {"a": 2, "b": 2, "c": 1}


def test_the_rate_of_one_host() -> None:
    turns = HostLimiter(errands(a=6), replace(FAST, rate=50))
    start = time.monotonic()
    while errand := turns.acquire():
        turns.release(errand)
    assert 0.1 <= time.monotonic() - start < 0.4


def test_a_host_that_asked_to_be_left_alone_does_not_keep_the_others_waiting() -> None:
    turns = HostLimiter(errands(a=2, b=2), FAST)
    first = turns.acquire()
    assert first
    assert first.host == "a"
    turns.pause_host("a", 0.15)
    turns.release(first, first, 0.15)
    start, order = time.monotonic(), []
    while errand := turns.acquire():
        order.append((errand.host, time.monotonic() - start > 0.13))
        turns.release(errand)
    assert order == [("b", False), ("b", False), ("a", True), ("a", True)]


def test_crawl_delay_slows_and_giving_up_ends_it() -> None:
    turns = HostLimiter(errands(a=4), FAST)
    turns.slow_down_host("a", 0.1)
    start = time.monotonic()
    for _ in range(2):
        errand = turns.acquire()
        assert errand
        turns.release(errand)
    assert time.monotonic() - start >= 0.1
    turns.pause_host("a", 60)
    turns.give_up_host("a")
    while errand := turns.acquire():
        turns.release(errand)
    assert time.monotonic() - start < 1


def test_the_time_is_up() -> None:
    assert HostLimiter(errands(a=2), replace(FAST, time_limit=0)).acquire() is None
    turns = HostLimiter(errands(a=2), replace(FAST, time_limit=0.1, rate=0.001))
    assert turns.acquire()
    start = time.monotonic()
    assert turns.acquire() is None
    assert time.monotonic() - start < 1
