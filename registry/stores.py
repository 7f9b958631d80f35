"""Where the bytes are kept: a directory or a bucket, and the driver for it."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from storage.drivers import Driver

if TYPE_CHECKING:
    from registry.config import Settings

BUCKET_SCHEME = "s3://"


@dataclass(frozen=True, slots=True)
class BucketPlace:
    """A bucket, and the prefix that everything in it lies below; empty for none."""

    bucket: str
    prefix: str = ""

    def __str__(self) -> str:
        """`s3://bucket/prefix`, as it is configured."""
        return f"{BUCKET_SCHEME}{self.bucket}/{self.prefix}" if self.prefix else f"{BUCKET_SCHEME}{self.bucket}"


Place = Path | BucketPlace


def parse_place(value: object) -> Place:
    """A directory, or a bucket written as `s3://bucket/prefix`. Raises ValueError saying what is expected."""
    if isinstance(value, BucketPlace):
        return value
    if not isinstance(value, str | Path):
        raise ValueError('expected a directory as a text, such as "./data", or a bucket, such as "s3://images"')
    text = str(value)
    if text.startswith(BUCKET_SCHEME):
        return _bucket(text)
    if "://" in text:
        raise ValueError("expected a directory, such as ./data, or a bucket, such as s3://images/registry")
    if str(Path(text)) == "." or "\0" in text:
        raise ValueError("expected the path of a directory of its own, such as ./data")
    if text.startswith("~"):
        raise ValueError("~ means a home directory to a shell only: write the whole path")
    return Path(text)


def open_driver(settings: "Settings") -> Driver:
    """Make the driver of the store that the settings name. It is not started."""
    # Imported late: most have one of the two, and boto3 takes a while.
    if isinstance(settings.data, Path):
        from storage.filesystem import FileSystemDriver  # noqa: PLC0415

        return FileSystemDriver(settings.data)
    from storage.s3 import S3Driver, S3Settings  # noqa: PLC0415

    # Whom to redirect, and for how long, is no business of the driver's.
    told = settings.s3.model_dump(exclude={"redirect", "redirect_networks", "redirect_seconds"})
    given = {name: value for name, value in told.items() if value is not None}
    return S3Driver(S3Settings(bucket=settings.data.bucket, prefix=settings.data.prefix, **given))


def _bucket(text: str) -> BucketPlace:
    bucket, _, prefix = text.removeprefix(BUCKET_SCHEME).partition("/")
    prefix = prefix.strip("/")
    if not bucket or any(character in bucket for character in "@:?#% \0"):
        raise ValueError(f"expected the name of a bucket after {BUCKET_SCHEME}, such as s3://images/registry")
    if prefix and any(part in {"", ".", ".."} for part in prefix.split("/")):
        raise ValueError("expected a prefix whose parts are neither empty nor . or .., such as s3://images/registry")
    return BucketPlace(bucket, prefix)
