"""Two collections of a store without any grace, as JSON: `python -m tests.repair.collecting DIRECTORY`."""

import asyncio
import json
import sys
from pathlib import Path

from registry.config import Settings
from registry.operations import Operations
from storage.filesystem import FileSystemDriver

COLLECTIONS = 2
"""What one condemns the next one deletes."""


async def collect(data: Path) -> list[str]:
    """Collect, and return the outcome of each."""
    settings = Settings.model_validate({"data": str(data), "gc": {"grace_seconds": 0, "trash_seconds": 0}})
    driver = FileSystemDriver(data)
    await driver.start()
    try:
        collections = [Operations(settings, driver).collection(share=1.0) for _ in range(COLLECTIONS)]
        return [(await collection.run(brake=False)).outcome for collection in collections]
    finally:
        await driver.close()


if __name__ == "__main__":
    print(json.dumps(asyncio.run(collect(Path(sys.argv[1])))))  # noqa: T201  # for whoever has started it
