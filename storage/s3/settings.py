"""Where the bucket is, how it is spoken to, and the limits of this process."""

from dataclasses import dataclass, field
from typing import Literal

MIB = 1 << 20
PART_BYTES_MIN = 5 * MIB
"""The least that a part of a multipart upload has, but for the last."""

PARTS_MAX = 10_000
COPY_BYTES_MAX = 5 << 30
"""The most that one call copies within a store."""


@dataclass(frozen=True, slots=True)
class S3Settings:
    """Everything that can be told about a bucket. What is None is left to boto3: its environment and files.

    `prefix` is empty or ends in no slash. `storage_class` is for committed objects, `sse` for everything. Some
    stores refuse the checksums that boto3 adds to every call by default: `checksums="when_supported"` is for
    AWS and those that do not. `commit` is how an upload of more than one part becomes a blob: at once, through a
    pointer to where its parts are, or by a copy. `redirect_endpoint` is where clients reach the store, if that is
    not where this process does.
    """

    bucket: str
    prefix: str = ""
    endpoint: str | None = None
    redirect_endpoint: str | None = None
    region: str | None = None
    path_style: bool | None = None
    profile: str | None = None
    access_key: str | None = None
    secret_key: str | None = field(default=None, repr=False)
    session_token: str | None = field(default=None, repr=False)
    sse: Literal["AES256", "aws:kms"] | None = None
    kms_key: str | None = None
    storage_class: str | None = None
    checksums: Literal["when_required", "when_supported"] = "when_required"
    ca_bundle: str | None = None
    connect_timeout_seconds: float = 5.0
    read_timeout_seconds: float = 30.0
    copy_timeout_seconds: float = 300.0
    attempts_max: int = 5
    backoff_seconds_max: float = 5.0
    threads_max: int = 32
    memory_bytes_max: int = 96 * MIB
    part_bytes: int = 8 * MIB
    parts_max: int = PARTS_MAX
    commit: Literal["pointer", "copy"] = "pointer"
    copy_part_bytes: int = 64 * MIB
    parallel_parts_max: int = 4

    def __post_init__(self) -> None:
        """Raise ValueError for what can't work."""
        if not self.bucket:
            raise ValueError("the bucket has no name: give s3://bucket or s3://bucket/prefix")
        if self.kms_key is not None and self.sse != "aws:kms":
            raise ValueError('a KMS key needs sse = "aws:kms"')
        if not PART_BYTES_MIN <= self.part_bytes <= COPY_BYTES_MAX:
            raise ValueError(f"a part has {PART_BYTES_MIN} bytes to {COPY_BYTES_MAX}, not {self.part_bytes}")
        if not PART_BYTES_MIN <= self.copy_part_bytes <= COPY_BYTES_MAX:
            raise ValueError(f"a copied part has {PART_BYTES_MIN} bytes to {COPY_BYTES_MAX}")
        if self.memory_bytes_max < 3 * self.part_bytes:
            raise ValueError(f"memory for three parts is needed: {3 * self.part_bytes} bytes at least")

    def part_bytes_at(self, number: int) -> int:
        """How long the part of that number is: parts grow, so that as many as may be hold a large blob."""
        doublings = (number - 1) // max(1, self.parts_max // 4)
        longest = max(self.part_bytes, min(self.memory_bytes_max // 3, COPY_BYTES_MAX))
        return min(self.part_bytes << min(doublings, 10), longest)
