"""One request: limits of size and time hold whatever the server does, and each fault has its name."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing, suppress

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from web import Web

from graft.jobs.collect.fetch import (
    Client,
    FetchError,
    FetchLimits,
    HttpResponse,
    TransientFetchError,
    parse_url,
    resolve_redirect,
)


@pytest.mark.parametrize(
    ("text", "asked"),
    [
        ("http://host/a b.jpg#top", "http://host/a%20b.jpg"),
        (" HTTP://Exämple.com:80/ü?q=ß ", "http://xn--exmple-cua.com/%C3%BC?q=%C3%9F"),
        ("https://host/a%20b?x=1&y=a/b", "https://host/a%20b?x=1&y=a/b"),
    ],
)
def test_urls_as_people_write_them(text: str, asked: str) -> None:
    assert str(parse_url(text)) == asked


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("file:///etc/passwd", "not http or https: file"),
        ("ftp://host/a.jpg", "not http or https: ftp"),
        ("data:image/png;base64,AAAA", "not http or https: data"),
        ("www.host.com/a.jpg", "not http or https: no scheme"),
        ("http://", "not a valid URL: no such host or port"),
        ("http://host:99999/", "not a valid URL: no such host or port"),
        ("http://user:secret@host/a.jpg", "user name or password in the URL"),
    ],
)
def test_urls_that_are_refused(text: str, reason: str) -> None:
    with pytest.raises(FetchError) as caught:
        parse_url(text)
    assert caught.value.reason == reason
    assert not isinstance(caught.value, TransientFetchError)


@example("A:////[")
@given(st.text() | st.text().map("http://".__add__) | st.text("/:@[]%.#?\\0x1").map("http://".__add__))
def test_any_text_is_a_url_or_refused(text: str) -> None:
    with suppress(FetchError):
        resolve_redirect(parse_url(text), text)
    with suppress(FetchError):
        assert resolve_redirect(parse_url("http://host/"), text).scheme in ("http", "https")


@pytest.fixture
def get(web: Web, quick: FetchLimits) -> Callable[[str], HttpResponse]:
    """GET a path of the server, in no more time than the limits allow."""

    def got(path: str) -> HttpResponse:
        start = time.monotonic()
        try:
            with closing(Client(quick)) as client:
                return client.get(parse_url(web.url(path)), quick.max_bytes)
        finally:
            assert time.monotonic() - start < 1.5

    return got


def test_an_image(get: Callable[[str], HttpResponse], web: Web) -> None:
    answer = get("/disc/00.png")
    assert (answer.status, answer.body) == (200, web.files["/disc/00.png"])
    assert [agent.split("/")[0] for agent in web.agents] == ["graft"]
    assert get("/zipped.jpg").body == web.files["/disc/00.png"]


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("/drip", "timeout"),
        ("/dripping-headers", "timeout"),
        ("/never", "timeout"),
        ("/short", "connection broken"),
    ],
)
def test_what_may_pass(path: str, reason: str, get: Callable[[str], HttpResponse]) -> None:
    with pytest.raises(TransientFetchError, match=reason):
        get(path)


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("/huge", "too large a file: the limit is 200,000 bytes"),
        ("/announced", "too large a file: 999,999,999 bytes"),
        ("/bomb", "too large a file"),
        ("/brotli", "unknown compression: br"),
    ],
)
def test_what_will_not_pass(path: str, reason: str, get: Callable[[str], HttpResponse]) -> None:
    with pytest.raises(FetchError, match=reason) as caught:
        get(path)
    assert not isinstance(caught.value, TransientFetchError)


def test_nobody_listens(get: Callable[[str], HttpResponse], web: Web) -> None:
    web.socket.close()
    with pytest.raises(TransientFetchError, match=r"cannot connect|connection broken"):
        get("/x")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("17", 17.0),
        ("", None),
        ("soon", None),
        ("Fri, 01 Jan 1999 00:00:00 GMT", 0.0),
        ("-5", None),
        ("9" * 400, float("inf")),
    ],
)
def test_retry_after(text: str, seconds: float | None) -> None:
    assert HttpResponse(503, {"retry-after": text}, b"").retry_after == seconds
