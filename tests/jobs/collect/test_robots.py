"""What a robots.txt forbids is not fetched."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest
from web import Web

from graft.jobs.collect.crawl import RobotsRules
from graft.jobs.collect.fetch import Client, FetchError, FetchLimits, TransientFetchError, parse_url


@pytest.fixture
def robots(quick: FetchLimits) -> Iterator[RobotsRules]:
    with closing(Client(quick)) as client:
        yield RobotsRules(client, quick)


@pytest.mark.parametrize(
    ("text", "path", "allowed"),
    [
        ("User-agent: *\nDisallow: /private/", "/private/a.jpg", False),
        ("User-agent: *\nDisallow: /private/", "/public/a.jpg", True),
        ("User-agent: *\nDisallow: /*.jpg$", "/a/b.jpg", False),
        ("User-agent: *\nDisallow: /*.jpg$", "/a/b.png", True),
        ("User-agent: *\nDisallow: /\n\nUser-agent: graft\nAllow: /", "/a.jpg", True),
        ("User-agent: graft\nDisallow: /\n\nUser-agent: *\nAllow: /", "/a.jpg", False),
        ("User-agent: other\nDisallow: /", "/a.jpg", True),
        ("<html>no robots here</html>", "/a.jpg", True),
        ("", "/a.jpg", True),
    ],
)
def test_rules(text: str, path: str, allowed: bool, web: Web, robots: RobotsRules) -> None:
    web.robots = (200, text)
    if allowed:
        assert robots.check(parse_url(web.url(path))) == 0
    else:
        with pytest.raises(FetchError, match=r"forbidden by robots\.txt"):
            robots.check(parse_url(web.url(path)))


def test_a_delay(web: Web, robots: RobotsRules) -> None:
    web.robots = (200, "User-agent: *\nCrawl-delay: 2.5")
    assert robots.check(parse_url(web.url("/a.jpg"))) == 2.5


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_no_rules_forbid_nothing(status: int, web: Web, robots: RobotsRules) -> None:
    web.robots = (status, "User-agent: *\nDisallow: /")
    assert robots.check(parse_url(web.url("/a.jpg"))) == 0


def test_rules_that_cannot_be_read_forbid_all_and_are_soon_given_up(
    web: Web, robots: RobotsRules, quick: FetchLimits
) -> None:
    web.robots = (503, "")
    for _ in range(quick.max_attempts):
        with pytest.raises(TransientFetchError, match=r"robots\.txt cannot be read: HTTP 503") as caught:
            robots.check(parse_url(web.url("/a.jpg")))
        assert not caught.value.final
    with pytest.raises(TransientFetchError, match="host does not answer") as caught:
        robots.check(parse_url(web.url("/a.jpg")))
    assert caught.value.final
