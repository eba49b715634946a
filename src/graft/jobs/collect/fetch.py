"""One request: a URL to the answer of its server, within limits of size and time."""

from __future__ import annotations

import ssl
import time
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from importlib.metadata import version

import httpcore2
import httpx2

from graft.jobs.collect.address import Guard, deadline
from graft.jobs.collect.faults import Failed, Refused
from graft.jobs.collect.limits import Limits

REDIRECTS = (301, 302, 303, 307, 308)
AGENT = "graft"  # the name that a robots.txt would call us
USER_AGENT = f"{AGENT}/{version('graft-vision')} (collects pictures to train image classifiers; obeys robots.txt)"
HEADERS = [(b"User-Agent", USER_AGENT.encode()), (b"Accept", b"image/*,*/*;q=0.5"), (b"Accept-Encoding", b"identity")]


@dataclass(frozen=True)
class Answer:
    """`body` is empty unless the status is 200; the names of headers are in small letters."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def location(self) -> str:
        """Where a redirect leads; '' for any other answer."""
        return self.headers.get("location", "") if self.status in REDIRECTS else ""

    @property
    def retry_after(self) -> float | None:
        """Seconds that the server asks to be left alone for, from a number or a date."""
        text = self.headers.get("retry-after", "").strip()
        try:
            return float(text) if text.isdecimal() else max(0, parsedate_to_datetime(text).timestamp() - time.time())
        except (ValueError, OverflowError, OSError):  # none, or one that is no date
            return None


def parsed(text: str) -> httpx2.URL:
    """A URL that may be asked for, its fragment taken off, other letters than ASCII encoded. Raises Refused."""
    try:
        url = httpx2.URL(text.strip())
    except httpx2.InvalidURL as error:
        raise Refused("not a valid URL", str(error)) from error
    if url.scheme not in ("http", "https"):
        raise Refused("not http or https", url.scheme or "no scheme")
    if not url.host or url.port == 0 or (url.port or 1) > 65535:
        raise Refused("not a valid URL", "no such host or port")
    if url.userinfo:
        raise Refused("user name or password in the URL")
    return url.copy_with(fragment=None)


def redirected(url: httpx2.URL, location: str) -> httpx2.URL:
    """Where a redirect leads from a URL. Raises Refused."""
    try:
        return parsed(str(url.join(location)))
    except Refused as fault:
        raise Refused("redirected", fault.reason) from fault
    except (httpx2.InvalidURL, ValueError) as error:  # urllib, which joins, has errors of its own
        raise Refused("redirected", f"not a valid URL: {error}") from error


class Client:
    """Sends requests from any number of threads; keeps connections open for a few seconds."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._pool = httpcore2.ConnectionPool(
            max_connections=None,
            max_keepalive_connections=limits.threads,
            keepalive_expiry=5.0,
            network_backend=Guard(limits.allow_private),
        )

    def close(self) -> None:
        """Close the connections that are open and idle."""
        self._pool.close()

    def get(self, url: httpx2.URL, most: int, *, cut: bool = False) -> Answer:
        """The answer to a GET; no redirect is followed. A body of more than `most` bytes is Refused, or `cut`.

        Raises Refused and Failed.
        """
        target = httpcore2.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path)
        headers = [(b"Host", url.netloc), *HEADERS]
        timeout = {"connect": self._limits.connect, "read": self._limits.silence, "write": self._limits.silence}
        with (
            deadline(self._limits.whole),
            _explained(),
            self._pool.stream("GET", target, headers=headers, extensions={"timeout": timeout}) as answer,
        ):
            found = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in answer.headers}
            body = _body(answer.iter_stream(), found, most, cut) if answer.status == 200 else b""
            return Answer(answer.status, found, body)


def _body(stream: Iterable[bytes], headers: dict[str, str], most: int, cut: bool) -> bytes:
    length = headers.get("content-length", "")
    if length.isdecimal() and int(length) > most and not cut:
        raise Refused("too large a file", f"{int(length):,} bytes; the limit is {most:,}")
    whole = bytearray()
    for part in _inflated(stream, headers.get("content-encoding", "identity").strip().lower(), most):
        whole += part
        if len(whole) > most:
            if cut:
                break
            raise Refused("too large a file", f"the limit is {most:,} bytes")
    return bytes(whole[:most])


def _inflated(stream: Iterable[bytes], encoding: str, most: int) -> Iterator[bytes]:
    """Compressed although we asked for it not to be: never more than `most` and one byte at a time in memory."""
    if encoding in ("", "identity"):
        yield from stream
        return
    if encoding not in ("gzip", "x-gzip", "deflate"):
        raise Refused("unknown compression", encoding)
    inflate = zlib.decompressobj(zlib.MAX_WBITS | 32)  # 32: gzip or zlib, by its header
    try:
        for part in stream:
            yield inflate.decompress(part, most + 1)
    except zlib.error as error:
        raise Refused("damaged compression") from error


@contextmanager
def _explained() -> Iterator[None]:
    """What httpcore raises, as Refused or Failed."""
    try:
        yield
    except httpcore2.TimeoutException as error:
        raise Failed("timeout") from error
    except httpcore2.ConnectError as error:
        if isinstance(error.__cause__, ssl.SSLCertVerificationError):
            raise Refused("certificate not valid", error.__cause__.verify_message) from error
        raise Failed("cannot connect", str(error)) from error
    except (httpcore2.NetworkError, httpcore2.RemoteProtocolError) as error:
        raise Failed("connection broken", str(error)) from error
    except httpcore2.LocalProtocolError as error:
        raise Refused("not a valid URL", str(error)) from error
