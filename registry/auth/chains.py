"""Certificates that a token brings along (RFC 7515 section 4.1.6), followed up to one that is trusted."""

import base64
from collections.abc import Sequence
from datetime import datetime
from typing import TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.x509.oid import ExtensionOID

from registry.auth.jwks import PublicKey, public_key
from registry.auth.jwts import TokenInvalid
from registry.x509_failures import UNREADABLE

_UNDERSTOOD = frozenset(
    {
        ExtensionOID.BASIC_CONSTRAINTS,
        ExtensionOID.KEY_USAGE,
        # Token services are given certificates of any purpose and any name: these say nothing here.
        ExtensionOID.EXTENDED_KEY_USAGE,
        ExtensionOID.SUBJECT_ALTERNATIVE_NAME,
    }
)

E = TypeVar("E", bound=x509.ExtensionType)


def certified_key(texts: Sequence[str], roots: Sequence[x509.Certificate], *, now: datetime) -> PublicKey:
    """The key of the first certificate, if each next one has issued the one before, up to one of the roots.

    RFC 5280 section 6, without names and revocation. Only what is at hand as a root is trusted; whether the chain ends
    with it does not matter. A first certificate that is itself a root is trusted as it is. Raises TokenInvalid.
    """
    try:
        chain = [x509.load_der_x509_certificate(base64.b64decode(text, validate=True)) for text in texts]
        return _follow(chain, roots, now)
    except TokenInvalid:
        raise
    except UNREADABLE:
        raise TokenInvalid("its x5c holds no certificates that can be read") from None


def _follow(chain: Sequence[x509.Certificate], roots: Sequence[x509.Certificate], now: datetime) -> PublicKey:
    key = public_key(chain[0].public_key())
    usage = _extension(chain[0], x509.KeyUsage)
    if key is None or (usage is not None and not usage.digital_signature):
        raise TokenInvalid("its certificate is for a key that no token may be signed with")
    for depth, certificate in enumerate(chain):
        if not _holds(certificate, now):
            raise TokenInvalid("one of its certificates has expired, is not valid yet, or says what is not known here")
        if certificate in roots:
            return key
        if any(_holds(root, now) and _has_issued(root, certificate, depth) for root in roots):
            return key
        if depth + 1 == len(chain) or not _has_issued(chain[depth + 1], certificate, depth):
            break
    raise TokenInvalid("its certificates do not lead to one that is trusted")


def _holds(certificate: x509.Certificate, now: datetime) -> bool:
    if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
        return False
    return all(extension.oid in _UNDERSTOOD for extension in certificate.extensions if extension.critical)


def _has_issued(issuer: x509.Certificate, certificate: x509.Certificate, between: int) -> bool:
    """Whether one certificate has issued another, with so many issuers between it and the first of the chain."""
    constraints = _extension(issuer, x509.BasicConstraints)
    if constraints is None or not constraints.ca:
        return False
    if constraints.path_length is not None and constraints.path_length < between:
        return False
    usage = _extension(issuer, x509.KeyUsage)
    if usage is not None and not usage.key_cert_sign:
        return False
    try:
        certificate.verify_directly_issued_by(issuer)
    except (InvalidSignature, ValueError, TypeError, UnsupportedAlgorithm):
        return False  # also where it is signed over SHA-1 or MD5, which the library does not know any more
    return True


def _extension(certificate: x509.Certificate, kind: type[E]) -> E | None:
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None
