"""Thousands of small objects put into a bucket at once: signed by hand, for a client takes longer than the store."""

import hashlib
import hmac
import http.client
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from urllib.parse import quote

from tests.s3.weed import ACCESS_KEY, BUCKET, SECRET_KEY, Store

THREADS = 8
REGION = "us-east-1"
PAYLOAD = "UNSIGNED-PAYLOAD"


def put_all(weed: Store, objects: Mapping[str, bytes]) -> None:
    """Put objects by their keys in the bucket."""
    host = weed.endpoint.partition("://")[2]
    pairs = list(objects.items())
    with ThreadPoolExecutor(THREADS) as threads:
        for _ in threads.map(lambda start: _put(host, pairs[start::THREADS]), range(THREADS)):
            pass


def _put(host: str, objects: Iterable[tuple[str, bytes]]) -> None:
    signer = _Signer(host, datetime.now(UTC))
    connection = http.client.HTTPConnection(host, timeout=60)
    try:
        for key, body in objects:
            path = f"/{BUCKET}/{quote(key, safe='/-_.~')}"
            connection.request("PUT", path, body, signer.headers(path))
            answer = connection.getresponse()
            text = answer.read()
            if answer.status != 200:
                raise RuntimeError(f"{key}: {answer.status} {text!r}")
    finally:
        connection.close()


class _Signer:
    """AWS Signature Version 4 of PUT requests."""

    def __init__(self, host: str, now: datetime) -> None:
        self._host = host
        self._time = now.strftime("%Y%m%dT%H%M%SZ")
        self._scope = f"{self._time[:8]}/{REGION}/s3/aws4_request"
        key = b"AWS4" + SECRET_KEY.encode()
        for part in self._scope.split("/"):
            key = hmac.digest(key, part.encode(), "sha256")
        self._key = key

    def headers(self, path: str) -> dict[str, str]:
        signed = {"host": self._host, "x-amz-content-sha256": PAYLOAD, "x-amz-date": self._time}
        names = ";".join(signed)
        lines = "".join(f"{name}:{value}\n" for name, value in signed.items())
        request = f"PUT\n{path}\n\n{lines}\n{names}\n{PAYLOAD}"
        hashed = hashlib.sha256(request.encode()).hexdigest()
        text = f"AWS4-HMAC-SHA256\n{self._time}\n{self._scope}\n{hashed}"
        signature = hmac.new(self._key, text.encode(), "sha256").hexdigest()
        credential = f"Credential={ACCESS_KEY}/{self._scope}, SignedHeaders={names}, Signature={signature}"
        return {**signed, "authorization": f"AWS4-HMAC-SHA256 {credential}"}
