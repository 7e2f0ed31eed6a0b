import inspect
import json
import subprocess
import sys
import time

import pytest

from mplug_services import client as public
from mplug_services.client import AsyncClient, Client
from mplug_services.client.async_jobs import AsyncJobs
from mplug_services.client.jobs import Jobs

PUBLIC_NAMES = [
    "AlreadyExistsError",
    "AsyncClient",
    "AttentionKernel",
    "ClassifyOutcome",
    "Client",
    "ClientError",
    "CollectionInfo",
    "DeadlineExceededError",
    "EmbedOutcome",
    "Exists",
    "ExplainOptions",
    "FailedPreconditionError",
    "FieldViolation",
    "FillOutcome",
    "Filter",
    "GeneratedText",
    "GenerationOptions",
    "HasId",
    "HeatMap",
    "ImageInput",
    "ImageSource",
    "IngestItem",
    "IngestOutcome",
    "InvalidRequestError",
    "Job",
    "JobState",
    "KeepImages",
    "KnownQuestion",
    "LabelScore",
    "Limits",
    "MaskCandidate",
    "Match",
    "MatchOutcome",
    "Metric",
    "ModelVersion",
    "NotFoundError",
    "NumberRange",
    "OverloadedError",
    "Part",
    "Payload",
    "PayloadValue",
    "PermissionDeniedError",
    "Point",
    "Question",
    "RankOutcome",
    "RankedAnswer",
    "RerankResult",
    "RetryPolicy",
    "ScoreFusion",
    "ScoredPoint",
    "SearchHit",
    "SearchResult",
    "ServedModel",
    "ServerError",
    "ServerInfo",
    "TextOutcome",
    "TextProgress",
    "TextSource",
    "TextSpan",
    "TimeRange",
    "Timings",
    "TlsOptions",
    "TrainProgress",
    "TrainResult",
    "TrainRow",
    "TrainText",
    "UnavailableError",
    "UpsertOutcome",
]

METHODS = [
    "answer",
    "caption",
    "classify",
    "close",
    "count",
    "create_collection",
    "delete",
    "delete_alias",
    "delete_collection",
    "embed_images",
    "embed_texts",
    "fill_mask",
    "generate",
    "get",
    "get_collection",
    "ingest",
    "list_collections",
    "query",
    "rank_answers",
    "rerank",
    "scroll",
    "search",
    "server_info",
    "set_alias",
    "stream_answer",
    "stream_caption",
    "stream_generate",
    "upsert",
]

JOB_METHODS = ["cancel", "get", "list", "train", "wait", "watch"]


def methods(kind: type) -> list[str]:
    return sorted(name for name in dir(kind) if not name.startswith("_"))


def test_the_public_names_are_these() -> None:
    assert public.__all__ == PUBLIC_NAMES
    assert all(hasattr(public, name) for name in PUBLIC_NAMES)


@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_the_clients_have_the_same_methods(kind: type) -> None:
    assert methods(kind) == METHODS


def parameters(kind: type, name: str) -> list[tuple[str, str, object]]:
    signature = inspect.signature(getattr(kind, name))
    return [(p.name, str(p.kind), p.default) for p in signature.parameters.values()]


@pytest.mark.parametrize("name", ["__init__", *METHODS])
def test_a_method_takes_the_same_in_both_clients(name: str) -> None:
    assert parameters(Client, name) == parameters(AsyncClient, name)
    assert inspect.getdoc(getattr(Client, name)) == inspect.getdoc(getattr(AsyncClient, name))


def test_both_clients_have_the_same_jobs() -> None:
    assert methods(Jobs) == methods(AsyncJobs) == JOB_METHODS
    for name in JOB_METHODS:
        assert parameters(Jobs, name) == parameters(AsyncJobs, name)
        assert inspect.getdoc(getattr(Jobs, name)) == inspect.getdoc(getattr(AsyncJobs, name))


async def test_clients_have_jobs() -> None:
    with Client("localhost:1") as client:
        assert isinstance(client.jobs, Jobs)
    async with AsyncClient("localhost:1") as other:
        assert isinstance(other.jobs, AsyncJobs)


def test_the_client_brings_neither_torch_nor_faiss_nor_pillow() -> None:
    script = "import json, sys, mplug_services.client; print(json.dumps(sorted(sys.modules)))"
    started = time.monotonic()
    answer = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert time.monotonic() - started < 5
    loaded = {name.split(".")[0] for name in json.loads(answer.stdout)}
    assert not loaded & {"torch", "faiss", "PIL", "timm", "open_clip", "tokenizers", "rich", "sqlite3"}
    assert {"grpc", "numpy", "mplug_api"} <= loaded
