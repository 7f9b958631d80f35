"""The S3 driver: an object is an object of a bucket, and its key the name below a prefix."""

from storage.s3.driver import S3Driver
from storage.s3.settings import S3Settings

__all__ = ["S3Driver", "S3Settings"]
