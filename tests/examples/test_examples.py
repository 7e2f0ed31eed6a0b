"""Every example runs, against a real server, as its reader would run it."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.cli.live_server import live_server

EXAMPLES = Path(__file__).parents[2] / "examples"
# In this order: later ones search what ingest_and_search.py has put in.
SAID = {
    "ingest_and_search.py": "72 pictures",
    "embed.py": "a bicycle / bicycle-twemoji.webp",
    "like_this_not_that.py": "scenes/",
    "many_searches.py": "城堡: ",
    "own_vectors.py": "0 refused, 1000 points",
}
ELSEWHERE = "finetune_captions.py"
"""Needs no server: tests/end_to_end/test_example_finetune.py."""


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with live_server(tmp_path_factory.mktemp("examples")) as server:
        yield server.address


def test_every_example_is_run_here() -> None:
    assert {path.name for path in EXAMPLES.glob("*.py")} == {*SAID, ELSEWHERE}


@pytest.mark.parametrize("name", [*SAID, ELSEWHERE])
def test_an_example_is_short(name: str) -> None:
    assert len((EXAMPLES / name).read_text(encoding="utf-8").splitlines()) < 40


def test_the_examples_run_and_say_what_they_should(address: str) -> None:
    for name, said in SAID.items():
        command = [sys.executable, str(EXAMPLES / name), address]
        answer = subprocess.run(command, capture_output=True, text=True, check=False, timeout=50)
        assert answer.returncode == 0, f"{name}: {answer.stderr}"
        assert said in answer.stdout, name
        assert "refused " not in answer.stdout.replace("0 refused", ""), name
