"""What a collection has found and done, as it is stored and shown."""

import json
from dataclasses import asdict, dataclass, field
from enum import Enum

from storage import keys
from storage.drivers import Driver
from storage.errors import Corrupt, NotFound

STORED_BYTES_MAX = 4 << 20
KEPT_TOLD_MAX = 1000


class Outcome(Enum):
    """How a run has ended."""

    DONE = "done"
    PLANNED = "planned"
    BRAKED = "braked"
    FAILED = "failed"


@dataclass(slots=True)
class Report:
    """Times in seconds since the epoch. `kept` has, by repository, why everything that it holds was kept.

    `garbage_*` is what was found, the rest what was taken: links to layers and manifests, blobs and their bytes.
    """

    run: str
    started: float
    ended: float = 0.0
    outcome: str = Outcome.FAILED.value
    reason: str = ""
    repositories: int = 0
    manifests: int = 0
    blobs: int = 0
    garbage_manifests: int = 0
    garbage_layers: int = 0
    garbage_blobs: int = 0
    garbage_bytes: int = 0
    taken_manifests: int = 0
    taken_layers: int = 0
    deleted_blobs: int = 0
    deleted_bytes: int = 0
    kept: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> bytes:
        """The report as it is stored."""
        fields = asdict(self)
        fields["kept"] = dict(list(self.kept.items())[:KEPT_TOLD_MAX])
        return json.dumps(fields, indent=1).encode()

    @classmethod
    def from_json(cls, text: bytes) -> "Report":
        """Read a stored report. Raises ValueError."""
        try:
            return cls(**json.loads(text))
        except (TypeError, RecursionError) as error:
            raise ValueError(str(error)) from error


async def last_report(driver: Driver) -> Report | None:
    """The report of the latest run; None if there is none, or it is damaged."""
    try:
        return Report.from_json((await driver.get(keys.COLLECTION_LAST, bytes_max=STORED_BYTES_MAX)).body)
    except (NotFound, Corrupt, ValueError):
        return None
