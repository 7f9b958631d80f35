"""Addresses as people write them, and sockets as they find them."""

import socket
import stat
from pathlib import Path

import pytest

from registry.addresses import TcpAddress, parse_address
from registry.server.sockets import Listener, ListenError


@pytest.mark.parametrize(
    ("listen", "address"),
    [
        ("127.0.0.1:5000", TcpAddress("127.0.0.1", 5000)),
        ("localhost:0", TcpAddress("localhost", 0)),
        ("[::1]:5000", TcpAddress("::1", 5000)),
        (":5000", TcpAddress("", 5000)),
        ("unix:/run/pierhead.sock", Path("/run/pierhead.sock")),
    ],
)
def test_an_address_is_parsed(listen: str, address: TcpAddress | Path) -> None:
    assert parse_address(listen) == address


@pytest.mark.parametrize(
    "listen",
    [
        "",
        "5000",
        "127.0.0.1",
        "127.0.0.1:",
        "127.0.0.1:http",
        "127.0.0.1:65536",
        "::1:5000",
        "h:-1",
        "h:\u0665",
        "unix:a",
        "unix:",
    ],
)
def test_what_is_no_address_is_refused_in_one_line(listen: str) -> None:
    with pytest.raises(ListenError, match="cannot listen on") as caught:
        Listener.bind(listen)

    assert "\n" not in str(caught.value)


def test_port_0_becomes_the_port_that_the_kernel_chose() -> None:
    listener = Listener.bind("127.0.0.1:0")
    try:
        assert listener.url == f"http://127.0.0.1:{listener.socket.getsockname()[1]}"
        assert not listener.url.endswith(":0")
    finally:
        listener.close()


def test_an_ipv6_address_stands_in_brackets() -> None:
    try:
        listener = Listener.bind("[::1]:0")
    except ListenError as error:
        pytest.skip(str(error))
    try:
        assert listener.url.startswith("http://[::1]:")
    finally:
        listener.close()


def test_a_port_that_is_taken_is_one_clear_line() -> None:
    listener = Listener.bind("127.0.0.1:0")
    address = listener.url.removeprefix("http://")
    try:
        with pytest.raises(ListenError, match=f"cannot listen on {address}: address already in use"):
            Listener.bind(address)
    finally:
        listener.close()


def test_an_address_that_is_not_ours_is_one_clear_line() -> None:
    with pytest.raises(ListenError, match=r"cannot listen on 192\.0\.2\.1:5000: "):
        Listener.bind("192.0.2.1:5000")


def test_a_unix_socket_is_open_to_owner_and_group_only_and_removed_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    listener = Listener.bind(f"unix:{path}")

    assert stat.S_IMODE(path.stat().st_mode) == 0o660
    assert listener.url == f"unix:{path}"
    listener.close()
    listener.remove()
    assert not path.exists()


def test_a_unix_socket_that_somebody_listens_on_is_left_alone(tmp_path: Path) -> None:
    listener = Listener.bind(f"unix:{tmp_path / 'socket'}")
    try:
        with pytest.raises(ListenError, match="address already in use"):
            Listener.bind(f"unix:{tmp_path / 'socket'}")
        assert (tmp_path / "socket").exists()
    finally:
        listener.close()


def test_a_unix_socket_that_a_killed_server_left_is_replaced(tmp_path: Path) -> None:
    Listener.bind(f"unix:{tmp_path / 'socket'}").close()
    listener = Listener.bind(f"unix:{tmp_path / 'socket'}")
    try:
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(tmp_path / "socket"))
    finally:
        listener.close()


def test_a_file_that_is_no_socket_is_never_removed(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("bytes")
    with pytest.raises(ListenError, match="not a socket"):
        Listener.bind(f"unix:{tmp_path / 'precious'}")

    assert (tmp_path / "precious").read_text() == "bytes"
