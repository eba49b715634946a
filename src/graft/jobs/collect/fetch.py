"""HTTP client for images: one GET request, within limits of size and time, to public addresses only."""

from __future__ import annotations

import ipaddress
import math
import os
import socket
import ssl
import threading
import time
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from importlib.metadata import version
from ipaddress import IPv4Address, IPv6Address
from typing import Any

import httpcore2
import httpx2

from graft_runtime.image import ImageError, decode, open_header

REDIRECTS = (301, 302, 303, 307, 308)
AGENT = "graft"  # the user agent that a robots.txt would name
USER_AGENT = f"{AGENT}/{version('graft-vision')} (collects images to train image classifiers; obeys robots.txt)"
HEADERS = [(b"User-Agent", USER_AGENT.encode()), (b"Accept", b"image/*,*/*;q=0.5"), (b"Accept-Encoding", b"identity")]
SUFFIXES = {  # where it is not Pillow's format name; MPO is a JPEG of several views
    "JPEG": ".jpg",
    "MPO": ".jpg",
    "TIFF": ".tif",
    "HEIF": ".heic",
    "DIB": ".bmp",
}
# An image of 64 megapixels takes 200 MB decoded: at most as many at once as there are cores.
_DECODING = threading.BoundedSemaphore(os.cpu_count() or 1)
NAT64 = ipaddress.IPv6Network("64:ff9b::/96")  # RFC 6052: an IPv4 address in the last 32 bits
_DEADLINE: ContextVar[float] = ContextVar("until", default=math.inf)


# --- requests ---------------------------------------------------------------------------------------------------------


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


class Client:
    """Thread-safe HTTP client; keeps connections open for a few seconds."""

    def __init__(self, limits: FetchLimits) -> None:
        self._limits = limits
        self._pool = httpcore2.ConnectionPool(
            max_connections=None,
            max_keepalive_connections=limits.threads,
            keepalive_expiry=5.0,
            network_backend=PublicNetworkBackend(limits.allow_private),
        )

    def close(self) -> None:
        """Close idle connections."""
        self._pool.close()

    def get(self, url: httpx2.URL, max_bytes: int, *, truncate: bool = False) -> HttpResponse:
        """Send a GET request; redirects are not followed.

        Raises FetchError and TransientFetchError; FetchError too for a body of more than `max_bytes`, which `truncate`
        cuts off instead.
        """
        target = httpcore2.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path)
        headers = [(b"Host", url.netloc), *HEADERS]
        timeout = {
            "connect": self._limits.connect_timeout,
            "read": self._limits.read_timeout,
            "write": self._limits.read_timeout,
        }
        with (
            deadline(self._limits.request_timeout),
            _translate_errors(),
            self._pool.stream("GET", target, headers=headers, extensions={"timeout": timeout}) as response,
        ):
            found = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in response.headers}
            body = _read_body(response.iter_stream(), found, max_bytes, truncate) if response.status == 200 else b""
            return HttpResponse(response.status, found, body)


@dataclass(frozen=True)
class HttpResponse:
    """HTTP response; `body` is empty unless the status is 200, header names are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def location(self) -> str:
        """Target of a redirect; '' for any other response."""
        return self.headers.get("location", "") if self.status in REDIRECTS else ""

    @property
    def retry_after(self) -> float | None:
        """Seconds of the Retry-After header, given as a number or a date; None without a valid one."""
        text = self.headers.get("retry-after", "").strip()
        try:
            return float(text) if text.isdecimal() else max(0, parsedate_to_datetime(text).timestamp() - time.time())
        except (ValueError, OverflowError, OSError):  # no header, or not a date
            return None


def parse_url(text: str) -> httpx2.URL:
    """Parse an http(s) URL; drop its fragment, encode what is not ASCII. Raises FetchError."""
    try:
        url = httpx2.URL(text.strip())
    except httpx2.InvalidURL as error:
        raise FetchError("not a valid URL", str(error)) from error
    if url.scheme not in ("http", "https"):
        raise FetchError("not http or https", url.scheme or "no scheme")
    if not url.host or url.port == 0 or (url.port or 1) > 65535:
        raise FetchError("not a valid URL", "no such host or port")
    if url.userinfo:
        raise FetchError("user name or password in the URL")
    return url.copy_with(fragment=None)


def resolve_redirect(url: httpx2.URL, location: str) -> httpx2.URL:
    """Return the URL that a redirect leads to. Raises FetchError."""
    try:
        return parse_url(str(url.join(location)))
    except FetchError as fault:
        raise FetchError("redirected", fault.reason) from fault
    except (httpx2.InvalidURL, ValueError) as error:  # ValueError: from urllib, which `join` uses
        raise FetchError("redirected", f"not a valid URL: {error}") from error


def _read_body(stream: Iterable[bytes], headers: dict[str, str], max_bytes: int, truncate: bool) -> bytes:
    length = headers.get("content-length", "")
    if length.isdecimal() and int(length) > max_bytes and not truncate:
        raise FetchError("too large a file", f"{int(length):,} bytes; the limit is {max_bytes:,}")
    whole = bytearray()
    for part in _decompress(stream, headers.get("content-encoding", "identity").strip().lower(), max_bytes):
        whole += part
        if len(whole) > max_bytes:
            if truncate:
                break
            raise FetchError("too large a file", f"the limit is {max_bytes:,} bytes")
    return bytes(whole[:max_bytes])


def _decompress(stream: Iterable[bytes], encoding: str, max_bytes: int) -> Iterator[bytes]:
    """Decompress what a server compressed although asked not to; a part yields at most `max_bytes` + 1 bytes."""
    if encoding in ("", "identity"):
        yield from stream
        return
    if encoding not in ("gzip", "x-gzip", "deflate"):
        raise FetchError("unknown compression", encoding)
    inflate = zlib.decompressobj(zlib.MAX_WBITS | 32)  # 32: gzip or zlib, by its header
    try:
        for part in stream:
            yield inflate.decompress(part, max_bytes + 1)
    except zlib.error as error:
        raise FetchError("damaged compression") from error


@contextmanager
def _translate_errors() -> Iterator[None]:
    """Raise httpcore's errors as FetchError or TransientFetchError."""
    try:
        yield
    except httpcore2.TimeoutException as error:
        raise TransientFetchError("timeout") from error
    except httpcore2.ConnectError as error:
        if isinstance(error.__cause__, ssl.SSLCertVerificationError):
            raise FetchError("certificate not valid", error.__cause__.verify_message) from error
        raise TransientFetchError("cannot connect", str(error)) from error
    except (httpcore2.NetworkError, httpcore2.RemoteProtocolError) as error:
        raise TransientFetchError("connection broken", str(error)) from error
    except httpcore2.LocalProtocolError as error:
        raise FetchError("not a valid URL", str(error)) from error


# --- images -----------------------------------------------------------------------------------------------------------


def inspect_image(data: bytes) -> tuple[str, int, int]:
    """Decode an image; return (suffix by content, width, height), upright. Raises FetchError."""
    try:
        with _DECODING:
            height, width, _ = decode(data).shape
    except ImageError as error:
        page = b"<html" in data[:1000].lower() or b"<!doctype html" in data[:1000].lower()
        raise FetchError("a web page, no image" if page else error.reason) from error
    with open_header(data) as image:
        format_name = image.format or ""
    return SUFFIXES.get(format_name, f".{format_name.lower()}"), width, height


# --- public addresses, and a deadline for the whole request -----------------------------------------------------------


@contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """Limit the total time of all connects, reads and writes inside; then TransientFetchError is raised."""
    token = _DEADLINE.set(time.monotonic() + seconds)
    try:
        yield
    finally:
        _DEADLINE.reset(token)


def is_public(address: str) -> bool:
    """Whether an address is on the public Internet; an IPv6 address that embeds IPv4 ones is judged by those."""
    found = ipaddress.ip_address(address)
    if isinstance(found, IPv6Address):
        if inner := _embedded_ipv4(found):
            return all(map(_is_public, inner))
        return _is_public(found) and not found.is_site_local
    return _is_public(found)


def _embedded_ipv4(address: IPv6Address) -> list[IPv4Address]:
    """Return the IPv4 addresses that a packet to this one would reach: mapped, 6to4, Teredo or NAT64."""
    held = [address.ipv4_mapped, address.sixtofour, *(address.teredo or ())]
    if address in NAT64:
        held.append(IPv4Address(int(address) & 0xFFFFFFFF))
    return [each for each in held if each]


def _is_public(address: IPv4Address | IPv6Address) -> bool:
    return address.is_global and not (address.is_multicast or address.is_reserved or address.is_unspecified)


class PublicNetworkBackend(httpcore2.NetworkBackend):
    """Network backend that connects to public addresses only, or, with `allow_private`, to any.

    The name is resolved here, and the address that was checked is the one connected to: a host cannot give another
    address in between (DNS rebinding).
    """

    def __init__(self, allow_private: bool) -> None:
        self._allow_private = allow_private
        self._backend = httpcore2.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.NetworkStream:
        """Connect to the first address that answers. Raises FetchError, TransientFetchError, or httpcore's errors."""
        fault: Exception = TransientFetchError("host not found")
        for address in self._addresses(host, port):
            try:
                inner = self._backend.connect_tcp(
                    address, port, _remaining_timeout(timeout), local_address, socket_options
                )
                return _DeadlineStream(inner)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as error:
                fault = error
        raise fault

    def _addresses(self, host: str, port: int) -> list[str]:
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except UnicodeError as error:  # a part of the name that is empty, or longer than 63 characters
            raise FetchError("not a valid URL", "no host can be called that") from error
        except OSError as error:
            raise TransientFetchError("host not found") from error
        addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
        allowed = [each for each in addresses if self._allow_private or is_public(each)]
        if addresses and not allowed:
            raise FetchError("private address", addresses[0])
        return allowed


class _DeadlineStream(httpcore2.NetworkStream):
    """Network stream whose reads and writes end at the deadline."""

    def __init__(self, inner: httpcore2.NetworkStream) -> None:
        self._inner = inner

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._inner.read(max_bytes, _remaining_timeout(timeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._inner.write(buffer, _remaining_timeout(timeout))

    def close(self) -> None:
        self._inner.close()

    def start_tls(
        self, ssl_context: Any, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore2.NetworkStream:
        return _DeadlineStream(self._inner.start_tls(ssl_context, server_hostname, _remaining_timeout(timeout)))

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)


def _remaining_timeout(timeout: float | None) -> float | None:
    left = _DEADLINE.get() - time.monotonic()
    if left <= 0:
        raise TransientFetchError("timeout")
    shorter = left if timeout is None else min(timeout, left)
    return None if math.isinf(shorter) else shorter
