"""Only public addresses are connected to, whatever a name resolves to and however an address is written."""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address
from typing import Any

import httpcore2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graft.jobs.collect.fetch import Client, FetchError, FetchLimits, TransientFetchError, is_public, parse_url

PUBLIC = ["93.184.216.34", "8.8.8.8", "2606:2800:220:1::1", "64:ff9b::808:808", "::ffff:8.8.8.8"]
PRIVATE = [
    *("127.0.0.1", "127.8.8.8", "0.0.0.0", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1"),
    *("224.0.0.1", "240.0.0.1", "255.255.255.255", "192.0.2.1", "198.18.0.1"),
    *("::1", "::", "fe80::1", "fe80::1%eth0", "fc00::1", "fd12::1", "fec0::1", "ff02::1", "2001:db8::1"),
    *("::ffff:127.0.0.1", "::ffff:10.0.0.1", "::127.0.0.1", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe"),
    *("2002:7f00:1::1", "2002:a00:1::"),  # 6to4 of 127.0.0.1 and 10.0.0.1
]


@pytest.mark.parametrize("address", PUBLIC)
def test_public(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize("address", PRIVATE)
def test_private(address: str) -> None:
    assert not is_public(address)


@given(st.ip_addresses(v=4))
def test_mapped_into_ipv6_an_address_is_as_public_as_before(address: IPv4Address) -> None:
    mapped, nat64 = (IPv6Address(int(IPv6Address(prefix)) | int(address)) for prefix in ("::ffff:0:0", "64:ff9b::"))
    assert is_public(str(mapped)) == is_public(str(nat64)) == is_public(str(address))


# --- what is really connected to --------------------------------------------------------------------------------------


@pytest.fixture
def connected(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Addresses that a connection was opened to; every one is refused."""
    tried: list[str] = []

    def refused(_: object, host: str, *__: object) -> httpcore2.NetworkStream:
        tried.append(host)
        raise httpcore2.ConnectError("nobody there")

    monkeypatch.setattr(httpcore2.SyncBackend, "connect_tcp", refused)
    return tried


@pytest.fixture
def resolve(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Makes names resolve to the given addresses, one answer after the other; returns the names asked for."""

    def answering(*answers: list[str]) -> list[str]:
        asked: list[str] = []

        def getaddrinfo(host: str, port: int, *_: object, **__: object) -> list[Any]:
            asked.append(host)
            found = answers[min(len(asked), len(answers)) - 1]
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (each, port)) for each in found]

        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
        return asked

    return answering


def get(url: str, limits: FetchLimits) -> None:
    with closing(Client(replace(limits, allow_private=False))) as client:
        client.get(parse_url(url), 1000)


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "[::1]", "2130706433", "0x7f000001", "127.1", "localhost", "[::ffff:127.0.0.1]", "0"]
)
def test_every_way_to_write_the_own_machine_is_refused(host: str, quick: FetchLimits, connected: list[str]) -> None:
    with pytest.raises(FetchError, match="private address"):
        get(f"http://{host}/x.jpg", quick)
    assert connected == []


@pytest.mark.parametrize("host", ["0177.0.0.1", "0x7f.0.0.1", "1.2.3.4.5"])
def test_octal_and_hexadecimal_parts_reach_nobody(host: str, quick: FetchLimits, connected: list[str]) -> None:
    with pytest.raises(FetchError):  # as no valid URL, as a private address, or as a name that nobody has
        get(f"http://{host}/x.jpg", quick)
    assert connected == []


@pytest.mark.parametrize("address", PRIVATE)
def test_a_name_for_a_private_address_is_refused(
    address: str, quick: FetchLimits, connected: list[str], resolve: Callable[..., list[str]]
) -> None:
    resolve([address])
    with pytest.raises(FetchError, match="private address"):
        get("http://images.example/x.jpg", quick)
    assert connected == []


def test_the_address_that_was_checked_is_the_one_that_is_connected_to(
    quick: FetchLimits, connected: list[str], resolve: Callable[..., list[str]]
) -> None:
    asked = resolve(["8.8.8.8"], ["127.0.0.1"])  # the second answer comes after the check
    with pytest.raises(TransientFetchError, match="cannot connect"):
        get("http://rebinding.example/x.jpg", quick)
    assert connected == ["8.8.8.8"]
    assert asked == ["rebinding.example"]


def test_of_several_addresses_the_public_ones_are_tried_in_turn(
    quick: FetchLimits, connected: list[str], resolve: Callable[..., list[str]]
) -> None:
    resolve(["10.0.0.1", "8.8.8.8", "::1", "2606:2800:220:1::1"])
    with pytest.raises(TransientFetchError, match="cannot connect"):
        get("https://several.example/x.jpg", quick)
    assert connected == ["8.8.8.8", "2606:2800:220:1::1"]


def test_a_name_that_nobody_has_may_come_back(quick: FetchLimits) -> None:
    with pytest.raises(TransientFetchError, match="host not found"):
        get("http://nobody.invalid/x.jpg", quick)


def test_no_host_can_be_called_that(quick: FetchLimits) -> None:
    with pytest.raises(FetchError, match="not a valid URL"):
        get(f"http://{'a' * 64}.example/x.jpg", quick)
