"""A private CA in a directory, and the certificate of one server that it signs.

`ca.crt` and `ca.key` are made once. `server.crt` and `server.key` are made anew whenever asked for.
"""

import contextlib
import ipaddress
import os
import re
import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from registry.x509_failures import UNREADABLE

KEY_MODE = 0o600
CERTIFICATE_MODE = 0o644

CLOCK_SKEW = timedelta(hours=1)
"""Clients whose clock is behind must not find a new certificate to be not valid yet."""

COMMON_NAME_CHARACTERS_MAX = 64
"""RFC 5280, Appendix A: ub-common-name."""

_LABEL = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9])?", re.ASCII)

Host = str | ipaddress.IPv4Address | ipaddress.IPv6Address


class AuthorityProblem(ValueError):
    """Why a certificate can't be made: one line that says what to do."""


@dataclass(frozen=True, slots=True)
class Made:
    """What was written. `is_new` tells whether the CA was made just now."""

    authority: Path
    authority_key: Path
    certificate: Path
    key: Path
    is_new: bool
    authority_ends: datetime
    certificate_ends: datetime


def parse_host(text: str) -> Host:
    """An IP address, or the name of a host, whose first label may be `*`. Raises AuthorityProblem."""
    bare = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    with contextlib.suppress(ValueError):
        address = ipaddress.ip_address(bare)
        if "%" not in bare and (address.version == 6 or bare == text):
            return address
    labels = text.split(".")
    names = labels[1:] if labels[0] == "*" and len(labels) > 2 else labels
    if len(text) > 253 or not all(_LABEL.fullmatch(label) for label in names) or labels[-1].isdigit():
        raise AuthorityProblem(
            f"{text!r} is neither an IP address nor the name of a host: expected such as registry.lan or 10.0.0.5, "
            "without a scheme and without a port"
        )
    return text.lower()


def set_up(directory: Path, hosts: list[Host], *, days: int, authority_days: int, replace: bool, now: datetime) -> Made:
    """Write a certificate for the hosts, signed by the CA of the directory, which is made if there is none.

    An existing CA is never replaced, an existing certificate only if `replace`. Raises AuthorityProblem, and
    OSError if a file can't be written.
    """
    authority_file, authority_key_file = directory / "ca.crt", directory / "ca.key"
    certificate_file, key_file = directory / "server.crt", directory / "server.key"
    if not replace:
        for file in (certificate_file, key_file):
            if os.path.lexists(file):
                raise AuthorityProblem(f"{file} exists: say --force to replace it with a new one of the same CA")
    is_new = not os.path.lexists(authority_file) and not os.path.lexists(authority_key_file)
    directory.mkdir(parents=True, exist_ok=True)
    if is_new:
        authority, authority_key = _new_authority(str(hosts[0]), days=authority_days, now=now)
        _write(authority_key_file, _pem(authority_key), KEY_MODE)
        _write(authority_file, authority.public_bytes(Encoding.PEM), CERTIFICATE_MODE)
    else:
        authority, authority_key = _load_authority(authority_file, authority_key_file, now)
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = _issue(authority, authority_key, key.public_key(), hosts, days=days, now=now)
    _write(key_file, _pem(key), KEY_MODE)
    _write(certificate_file, certificate.public_bytes(Encoding.PEM), CERTIFICATE_MODE)
    return Made(
        authority_file,
        authority_key_file,
        certificate_file,
        key_file,
        is_new,
        authority.not_valid_after_utc,
        certificate.not_valid_after_utc,
    )


def _new_authority(host: str, *, days: int, now: datetime) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    key = ec.generate_private_key(ec.SECP256R1())
    # Two CAs of one name would be mistaken for each other where both are trusted.
    name = _name(f"Pierhead CA {secrets.token_hex(4)} of {host}"[:COMMON_NAME_CHARACTERS_MAX])
    certificate = (
        _builder(name, name, key.public_key(), now=now, ends=_later(now, days))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, SHA256())
    )
    return certificate, key


def _issue(
    authority: x509.Certificate,
    authority_key: ec.EllipticCurvePrivateKey,
    key: ec.EllipticCurvePublicKey,
    hosts: list[Host],
    *,
    days: int,
    now: datetime,
) -> x509.Certificate:
    """The certificate of the server. It does not outlive the CA: nobody would believe it any more."""
    alternatives = [x509.DNSName(host) if isinstance(host, str) else x509.IPAddress(host) for host in hosts]
    ends = min(_later(now, days), authority.not_valid_after_utc)
    first = str(hosts[0])
    subject = _name(first if len(first) <= COMMON_NAME_CHARACTERS_MAX else "Pierhead")
    return (
        _builder(subject, authority.subject, key, now=now, ends=ends)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(_issued_by(authority), critical=False)
        .sign(authority_key, SHA256())
    )


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, *, now: datetime, ends: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(ends)
    )


def _later(now: datetime, days: int) -> datetime:
    try:
        return now + timedelta(days=days)
    except OverflowError as error:
        raise AuthorityProblem(f"{days} days from now there is no calendar any more: say fewer") from error


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _issued_by(authority: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    found = authority.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(found.value)


def _load_authority(file: Path, key_file: Path, now: datetime) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    remedy = "make the CA elsewhere, in an empty directory"
    try:
        certificate = x509.load_pem_x509_certificate(file.read_bytes())
        key = load_pem_private_key(key_file.read_bytes(), None)
        is_authority = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
        certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
    except FileNotFoundError as error:
        raise AuthorityProblem(
            f"{error.filename} is missing, and the other half of the CA is there: {remedy}"
        ) from error
    except (*UNREADABLE, x509.ExtensionNotFound) as error:
        raise AuthorityProblem(f"{file} and {key_file} are not a CA of pierhead tls init: {remedy}") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not is_authority or not _belong(certificate, key):
        raise AuthorityProblem(f"{file} and {key_file} are not a CA of pierhead tls init: {remedy}")
    if certificate.not_valid_after_utc <= now:
        raise AuthorityProblem(f"{file}: the CA expired on {certificate.not_valid_after_utc:%Y-%m-%d}: {remedy}")
    return certificate, key


def _belong(certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> bool:
    form = Encoding.DER, PublicFormat.SubjectPublicKeyInfo
    return certificate.public_key().public_bytes(*form) == key.public_key().public_bytes(*form)


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _write(file: Path, content: bytes, mode: int) -> None:
    """Put a file in its place whole: a server that reads it meanwhile sees the old one or the new one."""
    temporary = file.with_name(f".{file.name}.{secrets.token_hex(8)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        with open(descriptor, "wb") as opened:
            os.fchmod(descriptor, mode)  # umask(2) may have taken something away
            opened.write(content)
            opened.flush()
            os.fsync(descriptor)
        temporary.replace(file)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    parent = os.open(file.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(parent)
    finally:
        os.close(parent)
