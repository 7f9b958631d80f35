"""A disk that fails to give the bytes of one blob: told, and not the end of a verification."""

from registry.cli.scanning import parts_on
from registry.findings import Finding, Problem
from registry.scan import Tally
from registry.stores import BucketPlace
from registry.verification import Verification
from storage import keys
from storage.layout import check_layout
from tests.registry.test_scrubbing import Disk


async def test_what_the_disk_does_not_give_is_told_with_the_reason_and_the_rest_is_read() -> None:
    disk, found, tally = Disk(), list[Finding](), Tally()
    await check_layout(disk)
    digests = disk.fill(20)
    disk.failing.add(keys.blob(digests[3]))
    disk.rot(digests[7])

    await Verification(parts_on(disk, BucketPlace("none"), found.append, tally, condemn=False)).run(jobs=2)

    told = {finding.key: finding for finding in found if finding.problem is not Problem.BLOB_UNLINKED}
    assert {key: finding.problem for key, finding in told.items()} == {
        keys.blob(digests[3]): Problem.UNREADABLE,
        keys.blob(digests[7]): Problem.BLOB_DAMAGED,
    }
    assert "input/output error" in told[keys.blob(digests[3])].text
    assert tally.counts["blobs"] == 20
    assert not (await disk.list(keys.DAMAGED, limit=9)).entries
