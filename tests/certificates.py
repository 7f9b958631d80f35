"""Certificates that tests need: good ones, and bad ones of every kind."""

import ssl
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from registry.config import Tls
from registry.tls_authority import parse_host, set_up

HOST = "127.0.0.1"


@dataclass(frozen=True)
class Authority:
    """A CA of a test's own, and the certificates it signs."""

    name: x509.Name
    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @classmethod
    def new(cls, common_name: str = "Test CA", *, is_authority: bool = True, days: int = 100) -> Self:
        """Make one."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = named(common_name)
        now = datetime.now(UTC)
        certificate = (
            x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
            .not_valid_before(now - timedelta(days=200))
            .not_valid_after(now + timedelta(days=days))
            .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
            .sign(key, SHA256())
        )
        return cls(name, key, certificate)

    @property
    def pem(self) -> bytes:
        """Its certificate."""
        return self.certificate.public_bytes(Encoding.PEM)

    def issue(
        self,
        subject: x509.Name | str,
        alternatives: list[x509.GeneralName],
        *,
        since: timedelta = timedelta(days=-1),
        until: timedelta = timedelta(days=90),
    ) -> tuple[bytes, bytes]:
        """Return a certificate and its key, both PEM."""
        key = ec.generate_private_key(ec.SECP256R1())
        now = datetime.now(UTC)
        name = named(subject) if isinstance(subject, str) else subject
        builder = x509.CertificateBuilder(self.name, name, key.public_key(), x509.random_serial_number())
        builder = builder.not_valid_before(now + since).not_valid_after(now + until)
        if alternatives:
            builder = builder.add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        certificate = builder.sign(self.key, SHA256())
        return certificate.public_bytes(Encoding.PEM), pem_of(key)

    def client(self, directory: Path, subject: x509.Name | str, *alternatives: x509.GeneralName) -> tuple[Path, Path]:
        """Write a client's certificate and key, and return their paths."""
        certificate, key = self.issue(subject, list(alternatives))
        files = directory / "client.crt", directory / "client.key"
        for file, content in zip(files, (certificate, key), strict=True):
            file.write_bytes(content)
        return files


def named(common_name: str) -> x509.Name:
    """Return a name that is only a common name."""
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def pem_of(key: ec.EllipticCurvePrivateKey, password: bytes | None = None) -> bytes:
    """Return a key as it lies in a file."""
    encryption = NoEncryption() if password is None else BestAvailableEncryption(password)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)


def renew(directory: Path, *, days: int = 90) -> Tls:
    """Write a server's certificate for HOST with what `pierhead tls init` does, and return the settings for it."""
    made = set_up(directory, [parse_host(HOST)], days=days, authority_days=365, replace=True, now=datetime.now(UTC))
    return Tls(certificate=made.certificate, key=made.key)


def trusting(directory: Path, client: tuple[Path, Path] | None = None) -> ssl.SSLContext:
    """Return a client's context that trusts the CA of the directory."""
    context = ssl.create_default_context(cafile=directory / "ca.crt")
    if client is not None:
        context.load_cert_chain(*client)
    return context
