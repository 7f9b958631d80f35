"""X.509 certificates: the one that the server shows, and whom a client's speaks of."""

import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn, Self

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
from cryptography.x509.oid import NameOID

from registry.config import Tls
from registry.x509_failures import UNREADABLE

FILE_BYTES_MAX = 1 << 20

CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""For TLS 1.2: forward secret and authenticated. Those of TLS 1.3 all are."""

CLIENT_CERTIFICATE = "client_certificate"

_BEGIN = b"-----BEGIN CERTIFICATE-----"
_VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}
_VERIFY = {"off": ssl.CERT_NONE, "optional": ssl.CERT_OPTIONAL, "required": ssl.CERT_REQUIRED}


class CertificateProblem(ValueError):
    """What is wrong with a certificate or a key: one line that names the file."""


@dataclass(frozen=True, slots=True)
class ClientCertificate:
    """A client's certificate, verified against the CA of the configuration.

    `subject` is a distinguished name (RFC 4514). `common_name` is unset if there is none, or more than one: then
    nobody can tell which is meant. The others are the subject's alternative names (RFC 5280 section 4.2.1.6).
    """

    subject: str
    common_name: str | None
    dns_names: tuple[str, ...]
    uris: tuple[str, ...]
    emails: tuple[str, ...]
    not_after: datetime
    pem: str = field(repr=False)

    @classmethod
    def parse(cls, der: bytes) -> Self:
        """Read the certificate that a handshake has verified. Raises CertificateProblem."""
        try:
            found = x509.load_der_x509_certificate(der)
            names = _alternative_names(found)
            commons = [str(attribute.value) for attribute in found.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
            parsed = cls(
                subject=found.subject.rfc4514_string(),
                common_name=commons[0] if len(commons) == 1 else None,
                dns_names=tuple(names.get_values_for_type(x509.DNSName)),
                uris=tuple(names.get_values_for_type(x509.UniformResourceIdentifier)),
                emails=tuple(names.get_values_for_type(x509.RFC822Name)),
                not_after=found.not_valid_after_utc,
                pem=found.public_bytes(Encoding.PEM).decode("ascii"),
            )
        except UNREADABLE as error:
            raise CertificateProblem(f"the client's certificate can't be read: {error}") from error
        # "admin\0.evil" is no name of anybody, and an empty one would match a rule that was left empty.
        everything = (*commons, *parsed.dns_names, *parsed.uris, *parsed.emails)
        if not all(name and name.isprintable() for name in everything):
            raise CertificateProblem("the client's certificate has a name that is empty or not printable")
        return parsed


@dataclass(frozen=True, slots=True)
class ServerContext:
    """The context for new connections, and until when its certificate is valid."""

    context: ssl.SSLContext
    not_after: datetime


def client_certificate(scope: Mapping[str, Any]) -> ClientCertificate | None:
    """The verified certificate of the client, out of the scope of a request (ASGI, TLS extension)."""
    found: ClientCertificate | None = scope.get("extensions", {}).get("tls", {}).get(CLIENT_CERTIFICATE)
    return found


def name_of_certificate(which: str, certificate: ClientCertificate) -> str | None:
    """What is told of a client by its certificate: the one of `which` that it has, None if it has none or several."""
    names = {"dns": certificate.dns_names, "email": certificate.emails, "uri": certificate.uris}
    if which in names:
        return names[which][0] if len(names[which]) == 1 else None
    return certificate.subject or None if which == "subject" else certificate.common_name


def server_context(tls: Tls, *, now: datetime) -> ServerContext:
    """Check the files that the settings name and make a context of them. Raises CertificateProblem.

    Of a chain, every certificate has to be valid; of the CAs for clients, one.
    """
    assert tls.certificate is not None
    assert tls.key is not None
    chain = _read_certificates(tls.certificate)
    for position, certificate in enumerate(chain):
        which = "the certificate" if position == 0 else f"certificate {position + 1} of the chain"
        _check_dates(tls.certificate, which, certificate, now)
    _check_key(tls.key, tls.certificate, chain)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = _VERSIONS[tls.minimum]
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
    context.set_ciphers(CIPHERS)
    context.set_alpn_protocols(["http/1.1"])
    try:
        # It reads the files once more; what is not a pair by now is refused by it as well.
        context.load_cert_chain(tls.certificate, tls.key, password=_no_password)
    except ssl.SSLError as error:
        raise CertificateProblem(f"{tls.certificate}: OpenSSL does not take it: {_reason(error)}") from error
    except OSError as error:
        raise CertificateProblem(f"{tls.certificate} or {tls.key}: can't be read: {error.strerror}") from error
    if tls.client_ca is not None and tls.clients != "off":
        _ask_for_certificates(context, tls.client_ca, tls.clients, now)
    return ServerContext(context, min(certificate.not_valid_after_utc for certificate in chain))


def _ask_for_certificates(context: ssl.SSLContext, file: Path, clients: str, now: datetime) -> None:
    authorities = _read_certificates(file)
    for authority in authorities:
        if not _is_authority(authority):
            subject = authority.subject.rfc4514_string()
            raise CertificateProblem(f"{file}: {subject!r} is not a CA: clients can't be verified with it")
    if not any(authority.not_valid_before_utc <= now < authority.not_valid_after_utc for authority in authorities):
        _check_dates(file, "the CA", authorities[0], now)
    try:
        context.load_verify_locations(cadata=b"".join(a.public_bytes(Encoding.DER) for a in authorities))
    except ssl.SSLError as error:
        raise CertificateProblem(f"{file}: OpenSSL does not take it: {_reason(error)}") from error
    context.verify_mode = _VERIFY[clients]
    # A resumed session is not verified again: it would outlive the client's certificate.
    context.options |= ssl.OP_NO_TICKET
    context.num_tickets = 0


def _read(file: Path) -> bytes:
    try:
        with file.open("rb") as opened:
            content = opened.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise CertificateProblem(f"{file}: can't be read: {(error.strerror or str(error)).lower()}") from error
    if len(content) > FILE_BYTES_MAX:
        raise CertificateProblem(f"{file}: larger than {FILE_BYTES_MAX >> 20} MiB, so it is no certificate or key")
    return content


def _read_certificates(file: Path) -> list[x509.Certificate]:
    content = _read(file)
    if _BEGIN not in content:
        raise CertificateProblem(f"{file}: no certificate in it: expected PEM, which begins with {_BEGIN.decode()}")
    try:
        return x509.load_pem_x509_certificates(content)
    except UNREADABLE as error:
        raise CertificateProblem(f"{file}: a certificate in it is damaged") from error


def _check_dates(file: Path, which: str, certificate: x509.Certificate, now: datetime) -> None:
    first, last = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if now >= last:
        raise CertificateProblem(f"{file}: {which} expired on {last:%Y-%m-%d %H:%M} UTC: renew it")
    if now < first:
        raise CertificateProblem(
            f"{file}: {which} is not valid before {first:%Y-%m-%d %H:%M} UTC, and it is {now:%Y-%m-%d %H:%M}: "
            "is the clock of this machine right?"
        )


def _check_key(file: Path, certificate: Path, chain: list[x509.Certificate]) -> None:
    try:
        key = load_pem_private_key(_read(file), None)
    except TypeError as error:
        raise CertificateProblem(
            f"{file}: the key is encrypted, and nobody is there to type a password: store it without one, mode 0600"
        ) from error
    except (ValueError, UnsupportedAlgorithm) as error:
        if isinstance(error, CertificateProblem):
            raise
        raise CertificateProblem(f"{file}: no private key in PEM form in it") from error
    public = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    found = [_public_key(entry) == public for entry in chain]
    if not any(found):
        raise CertificateProblem(f"{file}: not the key of the certificate in {certificate}")
    if not found[0]:
        raise CertificateProblem(f"{certificate}: the server's own certificate has to come first, its issuers after it")


def _public_key(certificate: x509.Certificate) -> bytes | None:
    try:
        return certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    except (ValueError, UnsupportedAlgorithm):
        return None


def _is_authority(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except (ValueError, x509.ExtensionNotFound, x509.DuplicateExtension, x509.UnsupportedGeneralNameType):
        return False


def _alternative_names(certificate: x509.Certificate) -> x509.SubjectAlternativeName:
    try:
        return certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return x509.SubjectAlternativeName([])


def _no_password() -> NoReturn:
    # Without it OpenSSL would ask on the terminal.
    raise CertificateProblem("the key of the certificate is encrypted")


def _reason(error: ssl.SSLError) -> str:
    return (error.reason or str(error)).lower().replace("_", " ")
