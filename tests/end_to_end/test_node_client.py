"""A client in another language: Node.js, with the .proto files and by reflection."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from mplug_services.client import Client, IngestItem
from services.cli.live_server import live_server, write_pictures

ROOT = Path(__file__).parents[2]
NODE = shutil.which("node")
NPM = shutil.which("npm")

pytestmark = [
    pytest.mark.long,
    pytest.mark.timeout(300),
    pytest.mark.skipif(NODE is None or NPM is None, reason="node and npm are not installed"),
]


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("node")
    shutil.copytree(ROOT / "examples" / "node", folder, dirs_exist_ok=True)
    answer = subprocess.run(
        [str(NPM), "install", "--silent", "--no-audit", "--no-fund"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    if answer.returncode != 0:
        pytest.skip(f"npm install found no registry: {answer.stderr[-300:]}")
    return folder


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("node-server")
    with live_server(folder) as server:
        with Client(server.address) as client:
            items = [IngestItem(path.name, path) for path in write_pictures(folder / "pictures")]
            assert all(outcome.error is None for outcome in client.ingest("pets", items))
        yield server.address


def node(scripts: Path, script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "MPLUG_PROTO": str(ROOT / "proto")}
    command = [str(NODE), script, *arguments]
    return subprocess.run(
        command, cwd=scripts, env=environment, capture_output=True, text=True, check=False, timeout=60
    )


@pytest.mark.parametrize("script", ["search.mjs", "search_by_reflection.mjs"])
def test_node_finds_what_python_finds(scripts: Path, address: str, script: str) -> None:
    text = "a red picture 猫"
    with Client(address) as client:
        expected = [f"{hit.score:.4f} {hit.id}" for hit in client.search("pets", text=text, top_k=3).hits]
    answer = node(scripts, script, address, "pets", text)
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.splitlines() == expected
    assert len(expected) == 3


def test_node_sees_the_server_s_errors(scripts: Path, address: str) -> None:
    answer = node(scripts, "search.mjs", address, "nothing", "a dog")
    assert answer.returncode == 1
    assert answer.stderr.startswith("NOT_FOUND: ")
    assert "nothing" in answer.stderr


def test_the_example_s_packages_are_pinned() -> None:
    dependencies = json.loads((ROOT / "examples" / "node" / "package.json").read_text())["dependencies"]
    assert set(dependencies) == {"@grpc/grpc-js", "@grpc/proto-loader"}
