"""`Authorization: Basic`: what clients send is read, and whatever else strangers send is a BasicError."""

import base64

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import tests.properties  # noqa: F401  # no deadlines
from registry.auth.basic import PASSWORD_BYTES_MAX, USER_BYTES_MAX, BasicError, Credentials, parse_basic

printable = st.text(st.characters(exclude_categories=("Cc", "Cs")), max_size=60)


def header(text: str | bytes) -> str:
    return "Basic " + base64.b64encode(text.encode() if isinstance(text, str) else text).decode()


def test_the_example_of_the_rfc_is_read() -> None:
    assert parse_basic("Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==") == Credentials("Aladdin", "open sesame")
    assert parse_basic("Basic dGVzdDoxMjPCow==") == Credentials("test", "123£")


@given(printable.filter(lambda text: ":" not in text), printable)
def test_what_a_client_encodes_comes_back(user: str, password: str) -> None:
    found = parse_basic(header(f"{user}:{password}"))

    assert found == (Credentials(user, password) if user or password else None)


def test_a_colon_belongs_to_the_password() -> None:
    assert parse_basic(header("a:b:c:")) == Credentials("a", "b:c:")


def test_an_empty_pair_is_nobody_and_half_of_one_is_not() -> None:
    assert parse_basic("Basic Og==") is None
    assert parse_basic(header("a:")) == Credentials("a", "")
    assert parse_basic(header(":b")) == Credentials("", "b")


@pytest.mark.parametrize("value", ["basic YTpi", "BASIC YTpi", "Basic   YTpi", " Basic YTpi\t"])
def test_the_scheme_is_read_in_any_case_and_with_any_spaces(value: str) -> None:
    assert parse_basic(value) == Credentials("a", "b")


@pytest.mark.parametrize(
    "value",
    [
        "",
        "Basic",
        "Basic ",
        "Bearer YTpi",
        "BasicYTpi",
        "Basic YTpi, Basic YTpi",
        "Basic YTp",
        "Basic YTo",
        "Basic Y Tpi",
        "Basic YTpi====",
        "Basic YTo-",
        "Basic YTpé",
        "Basic YTp\ud800",
        "Basic YTpC\n",
        header("nobody"),
        header(b"a:\xff"),
        header(b"\xc0\xba:b"),
        header("a\n:b"),
        header("a:b\x00"),
        header("a:b\x7f"),
        header("a:b\x9b"),
    ],
)
def test_what_is_no_pair_is_refused(value: str) -> None:
    with pytest.raises(BasicError):
        parse_basic(value)


def test_bits_that_no_byte_comes_of_are_refused() -> None:
    assert base64.b64decode("YTo=") == base64.b64decode("YTp=")

    with pytest.raises(BasicError):
        parse_basic("Basic YTp=")


def test_the_longest_pair_is_read_and_a_longer_one_is_not() -> None:
    user, password = "é" * (USER_BYTES_MAX // 2), "x" * PASSWORD_BYTES_MAX

    assert parse_basic(header(f"{user}:{password}")) == Credentials(user, password)
    for pair in (f"{user}éé:b", f"a:{password}x", f"{user}:{password}" + "x" * 10**6):
        with pytest.raises(BasicError, match="long"):
            parse_basic(header(pair))


@given(st.text() | st.binary(max_size=99).map(header) | st.text(max_size=40).map(lambda text: f"Basic {text}"))
@example("Basic \ud800")
def test_no_text_is_anything_but_a_pair_or_a_refusal(value: str) -> None:
    try:
        found = parse_basic(value)
    except BasicError:
        return

    assert found is None or ":" not in found.user


def test_the_password_is_not_shown() -> None:
    assert "sesame" not in repr(parse_basic(header("Aladdin:open sesame")))
