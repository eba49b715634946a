"""Connections to public addresses only, each with a deadline.

A name is resolved here, its addresses are checked, and one of those that were checked is connected to: a name that
resolves otherwise a moment later (DNS rebinding) cannot lead elsewhere. The same for every hop of a redirect.
"""

from __future__ import annotations

import ipaddress
import math
import socket
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from ipaddress import IPv4Address, IPv6Address
from typing import Any

import httpcore2

from graft.jobs.collect.faults import Failed, Refused

NAT64 = ipaddress.IPv6Network("64:ff9b::/96")  # RFC 6052: an IPv4 address in the last 32 bits

_UNTIL: ContextVar[float] = ContextVar("until", default=math.inf)


@contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """All that is connected to, read and written inside, together, may take so long; then it is Failed."""
    token = _UNTIL.set(time.monotonic() + seconds)
    try:
        yield
    finally:
        _UNTIL.reset(token)


def is_public(address: str) -> bool:
    """Whether an address is one of the open Internet; an IPv6 address that stands for an IPv4 one is judged by it."""
    found = ipaddress.ip_address(address)
    if isinstance(found, IPv6Address):
        if inner := _inner(found):
            return all(map(_is_public, inner))
        return _is_public(found) and not found.is_site_local
    return _is_public(found)


def _inner(address: IPv6Address) -> list[IPv4Address]:
    """The IPv4 addresses that a packet to this one would reach: mapped, 6to4, Teredo or NAT64."""
    held = [address.ipv4_mapped, address.sixtofour, *(address.teredo or ())]
    if address in NAT64:
        held.append(IPv4Address(int(address) & 0xFFFFFFFF))
    return [each for each in held if each]


def _is_public(address: IPv4Address | IPv6Address) -> bool:
    return address.is_global and not (address.is_multicast or address.is_reserved or address.is_unspecified)


class Guard(httpcore2.NetworkBackend):
    """Connects to what `is_public` allows, or, with `allow_private`, to anything."""

    def __init__(self, allow_private: bool) -> None:
        self._allow_private = allow_private
        self._inner = httpcore2.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.NetworkStream:
        """To the first address that answers. Raises Refused, Failed, or what httpcore raises."""
        fault: Exception = Failed("host not found")
        for address in self._addresses(host, port):
            try:
                inner = self._inner.connect_tcp(address, port, _within(timeout), local_address, socket_options)
                return _Stream(inner)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as error:
                fault = error
        raise fault

    def _addresses(self, host: str, port: int) -> list[str]:
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except UnicodeError as error:  # a part of the name that is empty, or longer than 63 characters
            raise Refused("not a valid URL", "no host can be called that") from error
        except OSError as error:
            raise Failed("host not found") from error
        addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
        allowed = [each for each in addresses if self._allow_private or is_public(each)]
        if addresses and not allowed:
            raise Refused("private address", addresses[0])
        return allowed


class _Stream(httpcore2.NetworkStream):
    """A connection that no read or write keeps beyond the deadline."""

    def __init__(self, inner: httpcore2.NetworkStream) -> None:
        self._inner = inner

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._inner.read(max_bytes, _within(timeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._inner.write(buffer, _within(timeout))

    def close(self) -> None:
        self._inner.close()

    def start_tls(
        self, ssl_context: Any, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore2.NetworkStream:
        return _Stream(self._inner.start_tls(ssl_context, server_hostname, _within(timeout)))

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)


def _within(timeout: float | None) -> float | None:
    left = _UNTIL.get() - time.monotonic()
    if left <= 0:
        raise Failed("timeout")
    shorter = left if timeout is None else min(timeout, left)
    return None if math.isinf(shorter) else shorter
