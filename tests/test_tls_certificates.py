"""What a certificate says is read once and believed only as far as it is plain; bad files are named."""

import contextlib
import ssl
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from registry.certificates import CertificateProblem, ClientCertificate, client_certificate, server_context
from registry.config import Tls
from tests.certificates import HOST, Authority, named, pem_of, renew

EVERYTHING = [
    x509.DNSName("ci.example.org"),
    x509.DNSName("ci2.example.org"),
    x509.UniformResourceIdentifier("spiffe://example.org/ci"),
    x509.RFC822Name("ci@example.org"),
]


def der(pem: bytes) -> bytes:
    """Return the first certificate of a file as it goes over the wire."""
    return ssl.PEM_cert_to_DER_cert(pem.decode())


def test_a_clients_certificate_is_a_subject_and_names() -> None:
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Example, Inc."),
            x509.NameAttribute(NameOID.COMMON_NAME, "ci"),
        ]
    )
    pem, _ = Authority.new().issue(subject, EVERYTHING)

    found = ClientCertificate.parse(der(pem))

    assert found.subject == "CN=ci,O=Example\\, Inc."
    assert found.common_name == "ci"
    assert found.dns_names == ("ci.example.org", "ci2.example.org")
    assert found.uris == ("spiffe://example.org/ci",)
    assert found.emails == ("ci@example.org",)
    assert found.pem.encode() == pem
    assert "BEGIN" not in repr(found)
    assert timedelta(days=89) < found.not_after - datetime.now(UTC) < timedelta(days=91)


def test_a_certificate_with_no_names_at_all_is_read() -> None:
    pem, _ = Authority.new().issue(x509.Name([]), [])

    found = ClientCertificate.parse(der(pem))

    assert (found.subject, found.common_name, found.dns_names) == ("", None, ())


def test_of_two_common_names_none_is_taken() -> None:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name) for name in ("ci", "admin")])
    pem, _ = Authority.new().issue(subject, [])

    assert ClientCertificate.parse(der(pem)).common_name is None


@pytest.mark.parametrize("name", ["admin\0.evil", "admin\n", "a\u202eb"])
def test_a_name_that_is_not_printable_is_refused(name: str) -> None:
    pem, _ = Authority.new().issue(name, [])

    with pytest.raises(CertificateProblem, match="not printable"):
        ClientCertificate.parse(der(pem))


def test_a_certificate_of_an_unknown_version_is_refused() -> None:
    with pytest.raises(CertificateProblem, match="version"):
        ClientCertificate.parse(GOOD.replace(bytes.fromhex("a003020102"), bytes.fromhex("a003020101"), 1))


@given(st.binary(max_size=400))
def test_any_bytes_are_a_certificate_or_refused(content: bytes) -> None:
    with pytest.raises(CertificateProblem):
        ClientCertificate.parse(content)


@given(st.integers(0), st.integers(0, 255))
def test_a_certificate_with_one_wrong_byte_is_read_or_refused(position: int, byte: int) -> None:
    content = bytearray(GOOD)
    content[position % len(content)] = byte

    with contextlib.suppress(CertificateProblem):
        assert ClientCertificate.parse(bytes(content)).pem


GOOD = der(Authority.new().issue("ci", list(EVERYTHING))[0])


def test_the_certificate_is_found_in_the_scope_of_a_request() -> None:
    parsed = ClientCertificate.parse(GOOD)

    assert client_certificate({"extensions": {"tls": {"client_certificate": parsed}}}) is parsed
    assert client_certificate({"extensions": {"tls": {"client_certificate": None}}}) is None
    assert client_certificate({"extensions": {}}) is None
    assert client_certificate({}) is None


def context(tls: Tls) -> ssl.SSLContext:
    """Make the context of now."""
    return server_context(tls, now=datetime.now(UTC)).context


def test_the_context_is_of_today(tmp_path: Path) -> None:
    made = server_context(renew(tmp_path, days=30), now=datetime.now(UTC))

    assert made.context.minimum_version == ssl.TLSVersion.TLSv1_2
    assert made.context.verify_mode == ssl.CERT_NONE
    assert made.context.options & ssl.OP_NO_COMPRESSION
    assert made.context.options & ssl.OP_NO_RENEGOTIATION
    names = [str(cipher["name"]) for cipher in made.context.get_ciphers()]
    assert all(name.startswith(("TLS_", "ECDHE-")) and ("GCM" in name or "CHACHA20" in name) for name in names)
    assert timedelta(days=29) < made.not_after - datetime.now(UTC) <= timedelta(days=30)


def write(name: str, content: bytes) -> Callable[[Path], None]:
    """Return what replaces a file of the directory."""

    def replace(directory: Path) -> None:
        (directory / name).write_bytes(content)

    return replace


def expire(directory: Path) -> None:
    """Replace the pair by one of the past."""
    _pair(directory, since=timedelta(days=-9), until=timedelta(days=-2))


def hurry(directory: Path) -> None:
    """Replace the pair by one of the future."""
    _pair(directory, since=timedelta(days=2), until=timedelta(days=9))


def _pair(directory: Path, *, since: timedelta, until: timedelta) -> None:
    certificate, key = Authority.new().issue(HOST, [], since=since, until=until)
    (directory / "server.crt").write_bytes(certificate)
    (directory / "server.key").write_bytes(key)


def turn_around(directory: Path) -> None:
    """Put the CA before the certificate."""
    certificate = directory / "server.crt"
    certificate.write_bytes((directory / "ca.crt").read_bytes() + certificate.read_bytes())


def outlive_the_issuer(directory: Path) -> None:
    """Put an issuer that has expired behind the certificate."""
    certificate = directory / "server.crt"
    certificate.write_bytes(certificate.read_bytes() + Authority.new(days=-1).pem)


def weaken(directory: Path) -> None:
    """Replace the pair by one whose key is too short for OpenSSL."""
    key = rsa.generate_private_key(65537, 1024)
    now = datetime.now(UTC)
    name = named(HOST)
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1)
    builder = builder.not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=1))
    from cryptography.hazmat.primitives.hashes import SHA256

    (directory / "server.crt").write_bytes(builder.sign(key, SHA256()).public_bytes(Encoding.PEM))
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (directory / "server.key").write_bytes(pem)


KEY = ec.generate_private_key(ec.SECP256R1())
BROKEN = b"-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda directory: (directory / "server.crt").unlink(), "server.crt: can't be read: no such file or directory"),
        (lambda directory: (directory / "server.key").unlink(), "server.key: can't be read: no such file or directory"),
        (write("server.crt", b""), "server.crt: no certificate in it: expected PEM"),
        (write("server.crt", b"0\x82"), "server.crt: no certificate in it: expected PEM"),
        (write("server.crt", BROKEN), "server.crt: a certificate in it is damaged"),
        (write("server.crt", bytes(2 << 20)), "server.crt: larger than 1 MiB"),
        (write("server.key", b""), "server.key: no private key in PEM form in it"),
        (write("server.key", BROKEN), "server.key: no private key in PEM form in it"),
        (write("server.key", pem_of(KEY)), "server.key: not the key of the certificate in "),
        (write("server.key", pem_of(KEY, b"secret")), "server.key: the key is encrypted"),
        (expire, "server.crt: the certificate expired on 20"),
        (hurry, "server.crt: the certificate is not valid before 20"),
        (turn_around, "server.crt: the server's own certificate has to come first"),
        (outlive_the_issuer, "server.crt: certificate 2 of the chain expired on"),
        (weaken, "server.crt: OpenSSL does not take it: ee key too small"),
    ],
)
def test_what_is_wrong_with_a_file_is_one_line_that_names_it(
    tmp_path: Path, spoil: Callable[[Path], None], told: str
) -> None:
    tls = renew(tmp_path)
    spoil(tmp_path)

    with pytest.raises(CertificateProblem) as raised:
        context(tls)

    assert str(raised.value).startswith(f"{tmp_path}/{told}")
    assert "\n" not in str(raised.value)


def test_certificate_and_key_may_stand_in_one_file(tmp_path: Path) -> None:
    renew(tmp_path)
    both = tmp_path / "both.pem"
    both.write_bytes((tmp_path / "server.crt").read_bytes() + (tmp_path / "server.key").read_bytes())

    assert context(Tls(certificate=both, key=both)).get_ciphers()


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"x", "no certificate in it"),
        (Authority.new(is_authority=False).pem, "'CN=Test CA' is not a CA"),
        (Authority.new(days=-1).pem, "the CA expired on"),
    ],
)
def test_a_ca_for_clients_that_can_not_be_one_is_told(tmp_path: Path, content: bytes, told: str) -> None:
    tls = renew(tmp_path)
    authority = tmp_path / "clients.crt"
    authority.write_bytes(content)

    with pytest.raises(CertificateProblem, match=told):
        context(tls.model_copy(update={"client_ca": authority}))


def test_one_valid_ca_for_clients_is_enough(tmp_path: Path) -> None:
    tls = renew(tmp_path)
    authority = tmp_path / "clients.crt"
    authority.write_bytes(Authority.new(days=-1).pem + Authority.new().pem)

    assert context(tls.model_copy(update={"client_ca": authority})).verify_mode == ssl.CERT_OPTIONAL


@pytest.mark.parametrize(
    ("given", "holds"),
    [
        ({}, "off"),
        ({"client_ca": "/ca"}, "optional"),
        ({"client_ca": "/ca", "client_certificates": "required"}, "required"),
        ({"client_ca": "/ca", "client_certificates": "off"}, "off"),
    ],
)
def test_clients_are_asked_for_certificates_once_there_is_a_ca(given: dict[str, str], holds: str) -> None:
    assert Tls.model_validate({"certificate": "/c", "key": "/k", **given}).clients == holds


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"certificate": "/c"}, r"tls\.certificate is set and tls\.key is not"),
        ({"key": "/k"}, r"tls\.key is set and tls\.certificate is not"),
        ({"client_ca": "/c"}, r"tls\.client_ca is set and tls\.certificate is not"),
        ({"certificate": "/c", "key": "/k", "client_certificates": "required"}, r"needs tls\.client_ca"),
        ({"certificate": "~/c", "key": "/k"}, "write the whole path"),
        ({"certificate": "", "key": "/k"}, "expected the path of a file"),
        ({"certificate": 3, "key": "/k"}, "expected the path of a file"),
        ({"minimum": "1.1"}, "'1.2' or '1.3'"),
        ({"certificat": "/c"}, "certificat"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(given: dict[str, object], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        Tls.model_validate(given)
