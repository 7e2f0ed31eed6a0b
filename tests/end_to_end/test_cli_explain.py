"""`--explain` of caption, ask and search: the same maps here and from a real server, on sheets that hold them."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageChops

from golden.mplug_cases import tiny
from mplug.captioning import CaptionModel
from mplug.checkpoints import native
from mplug.errors import MplugError
from mplug.heat_maps import Explain
from mplug.pipelines import Input, Runner, make_runner
from mplug.vqa import VqaModel
from mplug_services.cli import main
from mplug_services.cli.server_process import ServerProcess
from mplug_services.client import Client, IngestItem, KeepImages
from services.rerank_servers import TEXT, make_rerank_model
from services.serving import build_model, picture

Output = pytest.CaptureFixture[str]
LENGTHS = ["--min-length", "4", "--max-length", "4"]
SETTINGS = {"min_length": 4, "max_length": 4}
TASKS = {"image-captioning": "caption", "visual-question-answering": "vqa", "image-text-retrieval": "rerank"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("explain")
    native.save(tiny(CaptionModel), folder / "caption")
    native.save(tiny(VqaModel), folder / "vqa")
    native.save(make_rerank_model(), folder / "rerank")
    native.save(build_model(), folder / "retrieval")
    (folder / "in" / "sub").mkdir(parents=True)
    (folder / "in" / "one.png").write_bytes(picture(1))
    (folder / "in" / "sub" / "two.png").write_bytes(picture(2))
    return folder


@pytest.fixture(scope="module")
def server_address(folder: Path) -> Iterator[str]:
    arguments = ["--model", str(folder / "retrieval"), "--token-cache", "none"]
    for name in ("caption", "vqa", "rerank"):
        arguments += [f"--{name}-model", str(folder / name)]
    with ServerProcess(folder / "data", arguments) as server:
        with Client(server.address) as client:
            kept = [IngestItem(f"kept/{seed}", picture(seed)) for seed in (1, 2)]
            assert all(each.error is None for each in client.ingest("pets", kept))
            lost = client.ingest("pets", [IngestItem("lost", picture(3))], keep_images=KeepImages.NONE)
            assert all(each.error is None for each in lost)
        yield server.address


@pytest.fixture
def address(server_address: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("MPLUG_ADDRESS", server_address)
    monkeypatch.setenv("COLUMNS", "200")
    return server_address


@pytest.mark.parametrize("task", TASKS)
def test_the_maps_are_the_same_here_and_there(task: str, folder: Path, address: str) -> None:
    text = {"image-captioning": "piece9"}.get(task, TEXT)
    inputs = [Input(picture(1), text), Input(b"no picture", text), Input(picture(2), text)]
    settings = {} if task == "image-text-retrieval" else SETTINGS
    found = []
    for source in (str(folder / TASKS[task]), address):
        runner: Runner = make_runner(task, source, generation=settings)
        found.append(runner.run(inputs, explain=Explain(layer=1)))
        if task == "visual-question-answering":
            found[-1] += runner.rank(inputs, ["piece7 piece9", "piece8"], explain=Explain())
        runner.close()
    for here, there in zip(*found, strict=True):
        assert (here.error is None) == (there.error is None) == bool(here.heat_maps)
        for one, other in zip(here.heat_maps, there.heat_maps, strict=True):
            assert (one.word, one.tokens) == (other.word, other.tokens)
            np.testing.assert_allclose(one.cells_HW, other.cells_HW, atol=1e-4)


def opened(path: Path) -> Image.Image:
    return Image.open(io.BytesIO(path.read_bytes()))


def sheets(lines: str) -> dict[str, Path]:
    return {line["id"]: Path(line["explanation"]) for line in map(json.loads, lines.splitlines())}


def test_captions_have_their_sheets_here_and_there(
    folder: Path, address: str, tmp_path: Path, capsys: Output
) -> None:
    found = []
    for name, options in (("here", ["--model", str(folder / "caption")]), ("there", [])):
        command = ["caption", str(folder / "in"), "--explain", str(tmp_path / name), *LENGTHS, *options]
        assert main(command) == 0
        found.append(sheets(capsys.readouterr().out))
    here, there = found
    assert set(here) == set(there) == {"one.png", "sub/two.png"}
    assert here["one.png"] == tmp_path / "here" / "one.png.png"
    for id, path in here.items():
        assert path.parent == tmp_path / "here"
        one, other = (opened(each).convert("RGB") for each in (path, there[id]))
        assert one.size == other.size
        # The maps may differ in the last bits, and so may the JPEGs of their overlays.
        assert np.asarray(ImageChops.difference(one, other)).mean() < 0.1
    assert not list(tmp_path.rglob("*.partial"))


@pytest.mark.parametrize("ranks", [False, True])
def test_an_answer_has_its_sheet(
    ranks: bool, folder: Path, address: str, tmp_path: Path, capsys: Output
) -> None:
    sizes = []
    for name, options in (("here.png", ["--model", str(folder / "vqa")]), ("there.png", [])):
        sheet = tmp_path / "sheets" / name
        command = ["ask", str(folder / "in" / "one.png"), "piece3 piece8", "--explain", str(sheet), *options]
        command += ["--answers", "piece7 piece9", "piece8"] if ranks else LENGTHS
        assert main(command) == 0
        assert capsys.readouterr().out.strip()
        sizes.append(opened(sheet).size)
    assert sizes[0] == sizes[1]


def test_hits_of_a_search_are_explained_as_far_as_their_pictures_are_kept(
    address: str, tmp_path: Path, capsys: Output
) -> None:
    command = ["search", TEXT, "--collection", "pets", "--rerank", "3", "--explain", str(tmp_path / "hits")]
    assert main(command) == 3
    output = capsys.readouterr()
    assert "kept/1" in output.out, "the result is there as without --explain"
    assert "not explained lost: the picture of 'lost' is not kept" in output.err
    assert "2 of 3 hits are explained" in output.err
    drawn = sorted((tmp_path / "hits").iterdir())
    assert len(drawn) == 2
    assert all("-kept_" in path.name for path in drawn)
    assert {opened(path).size for path in drawn} == {(48, 40)}


@pytest.mark.parametrize("source", ["here", "there"])
def test_a_layer_that_is_not_there_is_named(
    source: str, folder: Path, address: str, tmp_path: Path, capsys: Output
) -> None:
    options = ["--model", str(folder / "caption")] if source == "here" else []
    command = ["caption", str(folder / "in"), "--explain", str(tmp_path), "--explain-layer", "7", *options]
    assert main(command) == 1
    assert "7 is no layer of" in capsys.readouterr().err


def test_models_that_cannot_be_explained_say_so() -> None:
    from mplug.local_explain import add_heat_maps

    with pytest.raises(MplugError, match="a RetrievalModel is not explained"):
        add_heat_maps(build_model(), [], [], Explain())
