"""An issuer of tokens for tests: real keys, its JWKS and openid-configuration over HTTP, and tokens of any shape."""

import base64
import json
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID
from jwt.algorithms import get_default_algorithms

from registry.auth.jwks import CryptographyKey, thumbprint, to_jwk

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | Ed25519PrivateKey

AUDIENCE = "registry.test"


@cache
def rsa_key(name: str = "first", bits: int = 2048) -> rsa.RSAPrivateKey:  # noqa: ARG001  # one for each name
    """Return an RSA key; the same for the same name, for making one takes a while."""
    return rsa.generate_private_key(65537, bits)


def ec_key(curve: ec.EllipticCurve | None = None) -> ec.EllipticCurvePrivateKey:
    """Return a new key on a curve, P-256 unless told otherwise."""
    return ec.generate_private_key(curve or ec.SECP256R1())


def base64url(body: bytes) -> str:
    """Encode as JWS does, without padding."""
    return base64.urlsafe_b64encode(body).rstrip(b"=").decode()


def public_pem(key: PrivateKey) -> bytes:
    """Return the public half in PEM."""
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def assemble(header: object, claims: object, key: PrivateKey | bytes | None, algorithm: str) -> str:
    """Put a token together from anything: dictionaries become JSON, bytes stay as they are.

    `key` of None leaves the signature empty; bytes are an HMAC secret.
    """
    parts = [base64url(part if isinstance(part, bytes) else json.dumps(part).encode()) for part in (header, claims)]
    message = ".".join(parts).encode()
    signature = b""
    if isinstance(key, bytes):
        digest = {"HS256": hashes.SHA256()}[algorithm]
        from cryptography.hazmat.primitives.hmac import HMAC

        mac = HMAC(key, digest)
        mac.update(message)
        signature = mac.finalize()
    elif key is not None:
        signature = get_default_algorithms()[algorithm].sign(message, key)
    return ".".join([*parts, base64url(signature)])


@dataclass
class Key:
    """A key of an issuer, under a name and for one algorithm."""

    private: PrivateKey
    algorithm: str
    kid: str

    @property
    def public(self) -> CryptographyKey:
        """The public half."""
        return self.private.public_key()

    def jwk(self) -> dict[str, str]:
        """The public half as issuers publish it."""
        return {**to_jwk(self.public), "kid": self.kid, "alg": self.algorithm, "use": "sig"}


def rs256(name: str = "first") -> Key:
    """Return the RSA key of that name."""
    return Key(rsa_key(name), "RS256", f"rsa-{name}")


def es256() -> Key:
    """Return a new key on P-256."""
    key = ec_key()
    return Key(key, "ES256", thumbprint(key.public_key()))


def jwks(*keys: Key) -> bytes:
    """Return a JWKS of the public halves."""
    return json.dumps({"keys": [key.jwk() for key in keys]}).encode()


@dataclass
class Issuer:
    """An issuer that can be told to misbehave. `asked` counts its answers by path.

    `answers` replaces the answer for a path: status, headers, body. While it `is_down` it hangs up.
    """

    url: str = "https://issuer.test"
    keys: list[Key] = field(default_factory=lambda: [rs256(), es256()])
    now: float = field(default_factory=time.time)
    asked: list[str] = field(default_factory=list)
    answers: dict[str, tuple[int, Mapping[str, str], bytes]] = field(default_factory=dict)
    is_down: bool = False

    def claims(self, **others: object) -> dict[str, object]:
        """Return claims that are right, but for those that are given; None leaves one out."""
        now = int(self.now)
        found: dict[str, object] = {
            "iss": self.url,
            "sub": "job",
            "aud": AUDIENCE,
            "exp": now + 300,
            "nbf": now,
            "iat": now,
            **others,
        }
        return {name: value for name, value in found.items() if value is not None}

    def token(self, key: Key | None = None, *, header: Mapping[str, object] | None = None, **claims: object) -> str:
        """Return a token, right but for the header and claims that are given; None leaves one out."""
        key = key or self.keys[0]
        merged = {"alg": key.algorithm, "typ": "JWT", "kid": key.kid, **(header or {})}
        return assemble(
            {name: value for name, value in merged.items() if value is not None},
            self.claims(**claims),
            key.private,
            key.algorithm,
        )

    def token_saying(self, claims: Mapping[str, object], key: Key | None = None) -> str:
        """Return a token, right but for the claims that are given."""
        key = key or self.keys[0]
        return assemble(
            {"alg": key.algorithm, "typ": "JWT", "kid": key.kid}, self.claims(**claims), key.private, key.algorithm
        )

    def answer(self, path: str) -> tuple[int, Mapping[str, str], bytes]:
        """Return what is at a path."""
        self.asked.append(path)
        if path in self.answers:
            return self.answers[path]
        if path == "/.well-known/openid-configuration":
            document = {"issuer": self.url, "jwks_uri": f"{self.url}/keys"}
            return 200, {}, json.dumps(document).encode()
        if path == "/keys":
            return 200, {}, jwks(*self.keys)
        return 404, {}, b""


@contextmanager
def serve(issuer: Issuer) -> Iterator[Issuer]:
    """Serve an issuer on 127.0.0.1, where its URL leads from then on."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if issuer.is_down:
                self.close_connection = True
                return
            status, headers, body = issuer.answer(self.path)
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002  # the library's name
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    issuer.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield issuer
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@dataclass
class Certified:
    """A certificate and the key that it is for."""

    certificate: x509.Certificate
    key: PrivateKey

    @property
    def pem(self) -> bytes:
        """The certificate as a bundle holds it."""
        return self.certificate.public_bytes(Encoding.PEM)

    @property
    def x5c(self) -> str:
        """The certificate as a token's header holds it."""
        return base64.b64encode(self.certificate.public_bytes(Encoding.DER)).decode()


def certify(
    name: str,
    *,
    by: Certified | None = None,
    is_authority: bool = False,
    path_length: int | None = None,
    days: tuple[int, int] = (-1, 30),
    key: PrivateKey | None = None,
    extensions: Sequence[tuple[x509.ExtensionType, bool]] = (),
) -> Certified:
    """Make a certificate, signed by itself unless told otherwise, and valid from and until so many days from now."""
    key = key or ec_key()
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(by.certificate.subject if by else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + timedelta(days=days[0]))
        .not_valid_after(now + timedelta(days=days[1]))
        .add_extension(x509.BasicConstraints(ca=is_authority, path_length=path_length), critical=True)
    )
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical=critical)
    signer = by.key if by else key
    return Certified(builder.sign(signer, None if isinstance(signer, Ed25519PrivateKey) else hashes.SHA256()), key)
