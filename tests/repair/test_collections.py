"""No damage stops a collection, and none makes it take what is whole, not even without any grace."""

import json
import subprocess
import sys
from pathlib import Path

from tests.conftest import tool_or_skip
from tests.repair.damages import CASES, Mended, config_of
from tests.repair.test_outcomes import UNPRIVILEGED, is_served
from tests.running import ROOT, serving, start
from tests.swap.client import Client, Ledger
from tests.swap.commands import run
from tests.swap.scars import pushed
from tests.swap.unprivileged import WITHOUT

PATIENT = {"PIERHEAD_SCRUB_ENABLED": "false"}


def test_a_collection_comes_to_its_end_and_leaves_what_is_whole(tmp_path: Path) -> None:
    setpriv, data, ledger = tool_or_skip("setpriv"), tmp_path / "data", Ledger()
    with serving(data, log=tmp_path / "pushed") as server, Client(server.url, ledger) as client:
        images = {case.name: pushed(client, data, f"damaged/{case.name}") for case in CASES}
        intact = pushed(client, data, "zzz/intact")
        garbage = client.push_image("zzz/intact", None)
    for case in CASES:
        case.damage(images[case.name])
    collecting = [sys.executable, "-m", "tests.repair.collecting", str(data)]

    ended = subprocess.run(
        [setpriv, f"--bounding-set={WITHOUT}", f"--inh-caps={WITHOUT}", *collecting],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )

    assert ended.returncode == 0, ended.stderr
    assert set(json.loads(ended.stdout.splitlines()[-1])) == {"done"}, ended.stdout
    assert not (data / intact.blob(str(garbage["digest"]))).exists()
    server = start(data, log=tmp_path / "served", module=UNPRIVILEGED, environment=PATIENT)
    try:
        with Client(server.url, ledger) as client:
            assert client.get_manifest("zzz/intact", "v1").status_code == 200
            lost = []
            for case in CASES:
                image, contents = images[case.name], ledger[images[case.name].repository]
                damaged = {image.layer, image.digest, config_of(image, contents)}
                for digest, body in contents.blobs.items():
                    if (
                        digest not in damaged
                        and client.http.get(f"/v2/{image.repository}/blobs/{digest}").content != body
                    ):
                        lost.append((case.name, digest))
            assert lost == []
            run("verify", data, "--repair", module=UNPRIVILEGED)
            repaired = {case.name for case in CASES if is_served(client, images[case.name])}
            assert repaired == {case.name for case in CASES if case.mended is Mended.REPAIR}
    finally:
        server.stop()
