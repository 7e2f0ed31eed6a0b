"""Everything the client can do, against a real server, sync and async side by side."""

import dataclasses
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import numpy as np
import pytest

from mplug_services.client import (
    AsyncClient,
    Client,
    ClientError,
    Filter,
    HasId,
    ImageInput,
    ImageSource,
    IngestItem,
    Match,
    Part,
    Point,
    Timings,
)
from services.cli.live_server import live_server, write_pictures


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("parity")


@pytest.fixture(scope="module")
def pictures(folder: Path) -> list[Path]:
    return write_pictures(folder / "pictures")


@pytest.fixture(scope="module")
def address(folder: Path, pictures: list[Path]) -> Iterator[str]:
    with live_server(folder) as server:
        with Client(server.address) as client:
            items = [IngestItem(path.name, path, {"colour": path.stem, "size": 48}) for path in pictures]
            outcomes = list(client.ingest("pets", items))
            assert [outcome.error for outcome in outcomes] == [None] * 4
            client.create_collection("vectors", 3)
            points = [Point(f"p{n}", np.eye(3, dtype=np.float32)[n], {"n": float(n)}) for n in range(3)]
            assert all(outcome.sequence_number > 0 for outcome in client.upsert("vectors", points))
        yield server.address


E0, E1 = np.eye(3, dtype=np.float32)[:2]
CALLS: list[tuple[str, tuple[object, ...], dict[str, object]]] = [
    ("server_info", (), {}),
    ("embed_texts", (["a red picture", "猫", ""],), {}),
    ("embed_texts", (["word " * 500],), {}),
    ("search", ("pets",), {"text": "a red picture"}),
    ("search", ("pets",), {"stored_id": "red.png", "top_k": 2}),
    ("search", ("pets",), {"text": "a", "filter": Filter(must=(Match("colour", ("blue", "green")),))}),
    (
        "search",
        ("pets",),
        {"parts": [Part(text="a dog", weight=2.0), Part(stored_id="red.png", weight=-0.5)]},
    ),
    ("search", ("pets",), {}),
    ("search", ("nothing",), {"text": "a"}),
    ("search", ("pets",), {"image": b"not an image"}),
    ("get_collection", ("vectors",), {}),
    ("get_collection", ("nothing",), {}),
    ("list_collections", (), {}),
    ("create_collection", ("vectors", 3), {}),
    ("create_collection", ("no/name", 3), {}),
    ("get", ("vectors", ["p0", "p9"]), {"with_vector": True}),
    ("count", ("vectors",), {}),
    ("count", ("vectors",), {"filter": Filter(must_not=(HasId(("p1",)),))}),
    ("query", ("vectors", [Part(vector=E0)]), {"with_vector": True}),
    ("query", ("vectors", [Part(vector=E0), Part(stored_id="p1", weight=-1.0)]), {"top_k": 1}),
    ("query", ("vectors", [Part(vector=np.ones(4, np.float32))]), {}),
    ("query", ("vectors", [Part(text="a")]), {}),
    ("upsert", ("vectors", [Point("bad", np.array([np.nan, 0, 0], np.float32), {})]), {}),
    ("upsert", ("vectors", [Point("bad", np.ones(5, np.float32), {})]), {}),
    ("upsert", ("vectors", [Point("p0", E0, {}), Point("p0", E1, {})]), {}),
    ("delete", ("vectors",), {"ids": ["p9"]}),
    ("delete", ("vectors",), {}),
    ("delete_collection", ("nothing",), {}),
    ("delete_alias", ("nothing",), {}),
]


def plain(value: object) -> object:
    """A value with what differs between two equal calls taken out, comparable by ==."""
    if isinstance(value, Timings):
        assert value.total >= 0
        return "timings"
    if isinstance(value, np.ndarray):
        return [round(float(number), 5) for number in value]
    if isinstance(value, ClientError):
        return (type(value).__name__, value.code, value.reason, value.violations)
    if dataclasses.is_dataclass(value):
        names = [field.name for field in dataclasses.fields(value)]
        return {name: plain(getattr(value, name)) for name in names if name != "sequence_number"}
    if isinstance(value, float):
        return round(value, 5)
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value


def call(client: Client, method: str, args: tuple[object, ...], kwargs: dict[str, object]) -> object:
    try:
        return plain(getattr(client, method)(*args, **kwargs))
    except ClientError as error:
        return plain(error)


async def call_async(
    client: AsyncClient, method: str, args: tuple[object, ...], kwargs: dict[str, object]
) -> object:
    try:
        return plain(await getattr(client, method)(*args, **kwargs))
    except ClientError as error:
        return plain(error)


@pytest.mark.parametrize(
    ("method", "args", "kwargs"), CALLS, ids=[f"{n}-{call[0]}" for n, call in enumerate(CALLS)]
)
async def test_both_clients_answer_alike(
    address: str, method: str, args: tuple[object, ...], kwargs: dict[str, object]
) -> None:
    with Client(address) as client:
        expected = call(client, method, args, kwargs)
    async with AsyncClient(address) as client:
        assert await call_async(client, method, args, kwargs) == expected


async def test_iterators_answer_alike(address: str, pictures: list[Path]) -> None:
    items = [IngestItem(path.name, path) for path in pictures] + [IngestItem("broken", b"not an image")]
    with Client(address) as client:
        scrolled = [point.id for point in client.scroll("pets", page_size=3)]
        ingested = {outcome.id: plain(outcome) for outcome in client.ingest("pets", items)}
    assert scrolled == sorted(path.name for path in pictures)

    async def stream() -> AsyncIterator[IngestItem]:
        for item in items:
            yield item

    async with AsyncClient(address) as other:
        assert [point.id async for point in other.scroll("pets", page_size=3)] == scrolled
        assert {outcome.id: plain(outcome) async for outcome in other.ingest("pets", stream())} == ingested


def test_vectors_are_unit_and_alike_however_the_picture_is_given(address: str, pictures: list[Path]) -> None:
    sources: list[ImageSource] = [
        pictures[0],
        pictures[0].read_bytes(),
        ImageInput(data=pictures[0].read_bytes()),
    ]
    with Client(address) as client:
        vectors = [outcome.vector for outcome in client.embed_images(sources)]
    for vector in vectors:
        assert vector is not None
        assert vector.dtype == np.float32
        assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)
        np.testing.assert_allclose(vector, vectors[0] if vectors[0] is not None else 0, atol=1e-6)


def test_a_broken_picture_harms_no_neighbour(address: str, pictures: list[Path]) -> None:
    with Client(address) as client:
        outcomes = client.embed_images([pictures[0], b"not an image", pictures[1], b""])
    assert [outcome.error.reason if outcome.error else "" for outcome in outcomes] == [
        "",
        "IMAGE_UNKNOWN_FORMAT",
        "",
        "IMAGE_EMPTY",
    ]


def test_a_batch_beyond_the_server_s_limit_is_split(address: str) -> None:
    with Client(address) as client:
        count = client.server_info().limits.max_batch_size * 2 + 1
        outcomes = client.embed_texts(["a cat", "a dog"] * (count // 2) + ["a car"])
    assert len(outcomes) == count
    assert [outcome.index for outcome in outcomes] == list(range(count))
    assert all(outcome.error is None for outcome in outcomes)


def test_a_long_text_is_truncated_and_says_so(address: str) -> None:
    with Client(address) as client:
        short, long = client.embed_texts(["a cat", "a cat " * 5000])
        found = client.search("pets", parts=[Part(text="a cat"), Part(text="a cat " * 500)])
    assert (short.truncated, long.truncated) == (False, True)
    assert found.truncated_parts == (1,)


def test_aliases_lead_to_their_collection(address: str) -> None:
    with Client(address) as client:
        client.set_alias("best", "vectors")
        assert client.count("best") == 3
        assert client.get_collection("vectors").aliases == ("best",)
        client.delete_alias("best")
        assert client.get_collection("vectors").aliases == ()


def test_what_is_deleted_is_gone(address: str) -> None:
    with Client(address) as client:
        client.create_collection("passing", 2)
        client.upsert("passing", [Point(f"p{n}", np.ones(2, np.float32), {"n": float(n)}) for n in range(10)])
        assert client.delete("passing", ids=["p1", "p2", "p99"]) == 2
        assert client.delete("passing", filter=Filter(must=(Match("n", (3.0,)),))) == 1
        assert client.count("passing") == 7
        client.delete_collection("passing")
        assert "passing" not in [collection.name for collection in client.list_collections()]
