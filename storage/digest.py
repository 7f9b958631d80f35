"""Digests, and hashes whose running state can leave the process.

A digest names content: `sha256:` and 64, or `sha512:` and 128, lower-case hexadecimal digits (image-spec,
descriptor.md). No other algorithm is taken, and nothing is normalised: two spellings would be two names for
one object.
"""

import ctypes
import hashlib
from dataclasses import dataclass
from typing import Protocol

SHA256 = "sha256"
SHA512 = "sha512"
ALGORITHMS = {SHA256: 64, SHA512: 128}
"""The algorithms that are taken, and how many hexadecimal digits each has."""

_HEX = frozenset("0123456789abcdef")


@dataclass(frozen=True, slots=True)
class Digest:
    """A digest whose text was checked: it can stand in a key, a header or a URL as it is."""

    algorithm: str
    hex: str

    @classmethod
    def parse(cls, text: str) -> "Digest":
        """Read `algorithm:hex`. Raises ValueError, with a message for whoever sent it."""
        algorithm, colon, encoded = text.partition(":")
        length = ALGORITHMS.get(algorithm)
        if not colon or length is None:
            raise ValueError("a digest is sha256: with 64 or sha512: with 128 lower-case hexadecimal digits")
        if len(encoded) != length or not _HEX.issuperset(encoded):
            raise ValueError(f"a {algorithm} digest has {length} lower-case hexadecimal digits")
        return cls(algorithm, encoded)

    @classmethod
    def of(cls, body: bytes, algorithm: str = SHA256) -> "Digest":
        """Hash bytes."""
        return cls(algorithm, hashlib.new(algorithm, body, usedforsecurity=False).hexdigest())

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.hex}"


class _Sha256Context(ctypes.Structure):
    """`SHA256_CTX` of openssl/sha.h; the same since OpenSSL 0.9.8."""

    _fields_ = (
        ("h", ctypes.c_uint32 * 8),
        ("low", ctypes.c_uint32),
        ("high", ctypes.c_uint32),
        ("block", ctypes.c_ubyte * 64),
        ("used", ctypes.c_uint),
        ("digest_bytes", ctypes.c_uint),
    )

    def bits(self) -> int:
        """How many bits were hashed."""
        return int(self.high) << 32 | int(self.low)


class _Sha512Context(ctypes.Structure):
    """`SHA512_CTX` of openssl/sha.h."""

    _fields_ = (
        ("h", ctypes.c_uint64 * 8),
        ("low", ctypes.c_uint64),
        ("high", ctypes.c_uint64),
        ("block", ctypes.c_ubyte * 128),
        ("used", ctypes.c_uint),
        ("digest_bytes", ctypes.c_uint),
    )

    def bits(self) -> int:
        """How many bits were hashed."""
        return int(self.high) << 64 | int(self.low)


class RunningHash:
    """A hash that bytes are added to; `count` bytes so far.

    `hashlib` cannot export its state. OpenSSL's SHA256_* and SHA512_* functions keep theirs in a plain
    structure, so it can be stored and taken up by another process. Where they are missing or misbehave,
    `export` gives None and the bytes have to be read again.
    """

    def __init__(self, algorithm: str) -> None:
        self.algorithm = algorithm
        self._hash: _Hash = _OpenSSLHash(algorithm) if algorithm in _EXPORTABLE else _HashlibHash(algorithm)

    @property
    def count(self) -> int:
        """Bytes hashed so far."""
        return self._hash.count

    def update(self, piece: bytes) -> None:
        """Add bytes; other threads run meanwhile."""
        self._hash.update(piece)

    def digest(self) -> Digest:
        """The digest of everything so far; more can be added afterwards."""
        return Digest(self.algorithm, self._hash.digest().hex())

    def export(self) -> bytes | None:
        """The state for `restore`, or None where it can't be had."""
        return self._hash.export()

    @classmethod
    def restore(cls, algorithm: str, state: bytes) -> "RunningHash":
        """Go on from an exported state. Raises ValueError if it is none, or can't be used here."""
        running = cls(algorithm)
        running._hash.load(state)
        return running


class _Hash(Protocol):
    @property
    def count(self) -> int: ...
    def update(self, piece: bytes) -> None: ...
    def digest(self) -> bytes: ...
    def export(self) -> bytes | None: ...
    def load(self, state: bytes) -> None: ...


class _HashlibHash:
    def __init__(self, algorithm: str) -> None:
        self._hash = hashlib.new(algorithm, usedforsecurity=False)
        self.count = 0

    def update(self, piece: bytes) -> None:
        self._hash.update(piece)
        self.count += len(piece)

    def digest(self) -> bytes:
        return self._hash.digest()

    def export(self) -> bytes | None:
        return None

    def load(self, state: bytes) -> None:
        raise ValueError(f"{len(state)} bytes of state cannot be restored on this machine")


class _OpenSSLHash:
    def __init__(self, algorithm: str) -> None:
        self._algorithm = algorithm
        self._context = _CONTEXTS[algorithm]()
        self._update = getattr(_LIBCRYPTO, f"{algorithm.upper()}_Update")
        getattr(_LIBCRYPTO, f"{algorithm.upper()}_Init")(ctypes.byref(self._context))

    @property
    def count(self) -> int:
        return self._context.bits() // 8

    def update(self, piece: bytes) -> None:
        self._update(ctypes.byref(self._context), piece, len(piece))

    def digest(self) -> bytes:
        context = type(self._context).from_buffer_copy(self._context)  # Final destroys what it is given
        result = ctypes.create_string_buffer(ALGORITHMS[self._algorithm] // 2)
        getattr(_LIBCRYPTO, f"{self._algorithm.upper()}_Final")(result, ctypes.byref(context))
        return result.raw

    def export(self) -> bytes | None:
        return bytes(self._context)

    def load(self, state: bytes) -> None:
        context = type(self._context)
        if len(state) != ctypes.sizeof(context):
            raise ValueError(f"a {self._algorithm} state has {ctypes.sizeof(context)} bytes, not {len(state)}")
        restored = context.from_buffer_copy(state)
        # `used` indexes the block: a state from a damaged record must not make OpenSSL write outside of it.
        if restored.used != restored.bits() // 8 % len(restored.block):
            raise ValueError(f"the {self._algorithm} state contradicts itself")
        if restored.digest_bytes != ALGORITHMS[self._algorithm] // 2:
            raise ValueError(f"the state is not one of {self._algorithm}")
        self._context = restored


_CONTEXTS: dict[str, type[_Sha256Context] | type[_Sha512Context]] = {
    SHA256: _Sha256Context,
    SHA512: _Sha512Context,
}


def _load_libcrypto() -> ctypes.CDLL | None:
    # The very libcrypto that hashlib uses: loading another one could bring a second version into the process.
    try:
        import _hashlib  # noqa: PLC0415  # absent where Python was built without OpenSSL

        library = ctypes.CDLL(_hashlib.__file__)
        for algorithm in ALGORITHMS:
            name, context = algorithm.upper(), ctypes.c_void_p
            getattr(library, f"{name}_Init").argtypes = [context]
            getattr(library, f"{name}_Update").argtypes = [context, ctypes.c_char_p, ctypes.c_size_t]
            getattr(library, f"{name}_Final").argtypes = [ctypes.c_char_p, context]
    except (ImportError, OSError, AttributeError):
        return None
    return library


def _agrees_with_hashlib(algorithm: str) -> bool:
    # These functions are deprecated and their context is no stable interface: prove it before relying on it.
    text = bytes(range(251)) * 3
    half = _OpenSSLHash(algorithm)
    half.update(text[:333])
    whole = _OpenSSLHash(algorithm)
    try:
        whole.load(half.export() or b"")
    except ValueError:
        return False
    whole.update(text[333:])
    return whole.count == len(text) and whole.digest() == hashlib.new(algorithm, text).digest()


_LIBCRYPTO = _load_libcrypto()
_EXPORTABLE = frozenset(a for a in ALGORITHMS if _LIBCRYPTO is not None and _agrees_with_hashlib(a))
