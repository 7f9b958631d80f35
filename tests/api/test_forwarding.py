"""Whose address a request has: what a trusted proxy says, and nothing that a client can put there itself."""

from collections.abc import Sequence

import pytest

from registry.api.forwarding import client_address, forwarded_host, forwarded_prefix, forwarded_scheme

PROXY, CLIENT = "10.0.0.1", "203.0.113.5"


def scope(*lines: tuple[str, str], peer: str | None = PROXY) -> dict[str, object]:
    headers = [(name.encode(), value.encode()) for name, value in lines]
    return {"client": None if peer is None else (peer, 1), "headers": headers, "scheme": "http"}


def trusts(peer: str) -> bool:
    return peer in {PROXY, "unix", "10.0.0.2"}


@pytest.mark.parametrize(
    ("lines", "address"),
    [
        ([CLIENT], CLIENT),
        ([f"10.9.9.9, {CLIENT}"], CLIENT),
        (["10.9.9.9", CLIENT], CLIENT),  # HAProxy adds a line of its own
        ([f"{CLIENT}, 10.0.0.2"], CLIENT),
        ([f"10.9.9.9, {CLIENT}", "10.0.0.2"], CLIENT),
        ([f"{CLIENT}:51034"], CLIENT),
        (["[2001:db8::1]:443"], "2001:db8::1"),
        (["2001:db8::1"], "2001:db8::1"),
        (["user:alice"], PROXY),
        (["unknown"], PROXY),
        (["1.2.3.4\tx"], PROXY),
        ([""], PROXY),
        (["10.0.0.2"], PROXY),
        ([], PROXY),
    ],
)
def test_the_address_is_the_last_one_that_no_trusted_proxy_stands_for(lines: Sequence[str], address: str) -> None:
    assert client_address(scope(*(("x-forwarded-for", line) for line in lines)), trusts) == address


def test_a_peer_that_is_not_trusted_says_nothing() -> None:
    told = scope(
        ("x-forwarded-for", CLIENT),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-prefix", "/x"),
        ("x-forwarded-host", "evil.example"),
        ("host", "registry.example"),
        peer="198.51.100.7",
    )

    assert client_address(told, trusts) == "198.51.100.7"
    assert (forwarded_scheme(told, trusts), forwarded_prefix(told, trusts)) == ("http", "")
    assert forwarded_host(told, trusts) == "registry.example"


def test_of_several_lines_the_proxys_is_the_last() -> None:
    told = scope(
        ("x-forwarded-proto", "http"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "evil.example"),
        ("x-forwarded-host", "registry.example"),
        ("x-forwarded-prefix", "/evil"),
        ("x-forwarded-prefix", "/registry"),
        peer=None,
    )

    assert forwarded_scheme(told, trusts) == "https"
    assert forwarded_host(told, trusts) == "registry.example"
    assert forwarded_prefix(told, trusts) == "/registry"
