"""What has to be true of a store when nobody is working on it: asked over HTTP, and of the files."""

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from storage.digest import Digest
from tests.crash.trees import check_tree
from tests.races.clients import Client
from tests.running import ROOT

VERIFY_SECONDS = 300


def verify(data: Path) -> list[str]:
    """Run `pierhead verify` and the independent reader of the format; a line for each finding worse than a note."""
    command = [sys.executable, "-m", "registry", "verify", "--json", "--data", str(data)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PIERHEAD_")}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=VERIFY_SECONDS, check=False
    )
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    found = [f"{line['finding']}: {line['key']}" for line in lines if "finding" in line and line["severity"] != "note"]
    if done.returncode and not found:
        found.append(f"exit code {done.returncode}: {done.stderr[-2000:]}")
    assert done.returncode or lines[-1]["summary"] == "verified", lines[-1]
    return found + check_tree(data)


def inconsistencies(client: Client, repositories: Iterable[str]) -> list[str]:
    """A line for each name that leads nowhere: a listed tag without its manifest, a manifest without its blobs."""
    found: list[str] = []
    for repository in repositories:
        answer = client.send("GET", f"/v2/{repository}/tags/list")
        if answer.status == 404:
            continue
        for tag in json.loads(answer.body)["tags"]:
            found += unreadable(client, repository, tag)
    return found


def unreadable(client: Client, repository: str, reference: object) -> list[str]:
    """Pull an image; a line for everything of it that can't be read or has other bytes."""
    name = f"{repository}/manifests/{reference}"
    answer = client.send("GET", f"/v2/{name}")
    if answer.status != 200:
        return [f"{name}: {answer.status}"]
    if str(Digest.of(answer.body)) != answer.headers["docker-content-digest"]:
        return [f"{name}: other bytes"]
    fields = json.loads(answer.body)
    found = []
    for descriptor in (fields["config"], *fields["layers"]):
        blob = client.send("GET", f"/v2/{repository}/blobs/{descriptor['digest']}")
        if blob.status != 200 or str(Digest.of(blob.body)) != descriptor["digest"]:
            found.append(f"{name}: the blob {descriptor['digest']} gives {blob.status}")
    return found
