"""Start, readiness, drain, restart and refusal of a real server."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from mplug.checkpoints import native
from mplug.errors import CheckpointError
from mplug_api.v1 import embedding_service_pb2, index_service_pb2, model_service_pb2, search_service_pb2
from mplug_api.v1.embedding_service_pb2_grpc import EmbeddingServiceStub
from mplug_api.v1.index_service_pb2_grpc import IndexServiceStub
from mplug_api.v1.model_service_pb2_grpc import ModelServiceStub
from mplug_api.v1.search_service_pb2_grpc import SearchServiceStub
from mplug_services.engine import ModelWorker
from mplug_services.listen import StartupError
from mplug_services.server import Server, running_server, serve
from services.serving import (
    GatedModel,
    build_model,
    image_input,
    ingest_requests,
    make_worker,
    poll,
    read_all,
    reason_of,
    serve_config,
    status_of,
    tiny_server,
)

Code = grpc.StatusCode
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
NAMES = [f"mplug_api.v1.{name}Service" for name in ("Embedding", "Index", "Search", "Job", "Model")]


def images(count: int = 1) -> embedding_service_pb2.EmbedImagesRequest:
    return embedding_service_pb2.EmbedImagesRequest(images=[image_input(seed) for seed in range(count)])


async def health(channel: aio.Channel, service: str = "") -> int:
    stub: Any = health_pb2_grpc.HealthStub(channel)
    return int((await stub.Check(health_pb2.HealthCheckRequest(service=service))).status)


async def test_health_follows_the_loading_of_the_model(tmp_path: Path) -> None:
    model = GatedModel()
    model.shut()
    server = Server(serve_config(tmp_path), engine=make_worker(model))
    await server.start()
    try:
        async with aio.insecure_channel(server.address) as channel:
            await model.wait_for_pass()
            before = [await health(channel, name) for name in ["", *NAMES]]
            assert before == [NOT_SERVING, NOT_SERVING, SERVING, NOT_SERVING, SERVING, SERVING]
            embedding: Any = EmbeddingServiceStub(channel)
            with pytest.raises(aio.AioRpcError) as failed:
                await embedding.EmbedImages(images())
            assert failed.value.code() is Code.UNAVAILABLE
            assert reason_of(status_of(failed.value)) == "MODEL_LOADING"
            info: Any = ModelServiceStub(channel)
            described = await info.GetServerInfo(model_service_pb2.GetServerInfoRequest())
            assert not described.models
            model.gate.set()
            await server.wait_ready()
            assert [await health(channel, name) for name in ["", *NAMES]] == [SERVING] * 6
            assert len((await embedding.EmbedImages(images())).results) == 1
    finally:
        await server.stop()


async def test_a_stop_finishes_admitted_requests_and_refuses_new_ones(tmp_path: Path) -> None:
    model = GatedModel()
    server = Server(serve_config(tmp_path), engine=make_worker(model))
    await server.start()
    await server.wait_ready()
    async with aio.insecure_channel(server.address) as channel:
        watcher: Any = health_pb2_grpc.HealthStub(channel)
        watch = watcher.Watch(health_pb2.HealthCheckRequest(service=NAMES[0]))
        assert (await watch.read()).status == SERVING
        model.shut()
        stub: Any = EmbeddingServiceStub(channel)
        admitted = asyncio.ensure_future(stub.EmbedImages(images(3)))
        await model.wait_for_pass()
        stopping = asyncio.create_task(server.stop())
        assert (await watch.read()).status == NOT_SERVING
        with pytest.raises(aio.AioRpcError) as refused:
            await stub.EmbedImages(images())
        assert refused.value.code() is Code.UNAVAILABLE
        assert reason_of(status_of(refused.value)) == "SERVER_STOPPING"
        assert not stopping.done()
        model.gate.set()
        assert all(result.HasField("embedding") for result in (await admitted).results)
        # Long before the grace of 30 s: the open watch does not hold it up.
        await asyncio.wait_for(stopping, 10)


async def test_a_stop_ends_an_ingest_after_the_acks_of_what_it_read(tmp_path: Path) -> None:
    async with tiny_server(tmp_path) as (server, channel):
        stub: Any = SearchServiceStub(channel)
        call = stub.Ingest()
        for request in ingest_requests("pets", range(40)):
            await call.write(request)
        assert (await call.read()).HasField("started")
        first = await call.read()
        server.begin_drain()
        responses = [first]
        with pytest.raises(aio.AioRpcError) as ended:
            await read_all(call, into=responses)
        assert ended.value.code() is Code.UNAVAILABLE
        assert reason_of(status_of(ended.value)) == "DRAINING"
        acked = {each.ack.id for each in responses}
        index: Any = IndexServiceStub(channel)
        got = await index.Get(index_service_pb2.GetRequest(collection="pets", ids=sorted(acked)))
        assert len(got.points) == len(acked) > 0
        counted = await index.Count(index_service_pb2.CountRequest(collection="pets"))
        assert counted.count == len(acked)


# Any: this package has no stubs of its aio side.
make_reflection_stub: Any = reflection_pb2_grpc.ServerReflectionStub


async def test_reflection_lists_the_services(tmp_path: Path) -> None:
    async with tiny_server(tmp_path) as (_, channel):
        stub = make_reflection_stub(channel)
        request = reflection_pb2.ServerReflectionRequest(list_services="")
        responses = [each async for each in stub.ServerReflectionInfo(iter([request]))]
        names = {each.name for each in responses[0].list_services_response.service}
        assert names == {*NAMES, "grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"}


async def test_reflection_can_be_off(tmp_path: Path) -> None:
    async with tiny_server(tmp_path, reflection=False) as (_, channel):
        stub = make_reflection_stub(channel)
        request = reflection_pb2.ServerReflectionRequest(list_services="")
        with pytest.raises(aio.AioRpcError) as failed:
            async for _ in stub.ServerReflectionInfo(iter([request])):
                pass
        assert failed.value.code() is Code.UNIMPLEMENTED


async def test_a_restart_keeps_the_data(tmp_path: Path) -> None:
    async with tiny_server(tmp_path) as (_, channel):
        stub: Any = SearchServiceStub(channel)
        async for _ in stub.Ingest(iter(ingest_requests("pets", range(8)))):
            pass
    async with tiny_server(tmp_path) as (_, channel):
        stub = SearchServiceStub(channel)
        part = search_service_pb2.QueryPart(image=image_input(6))
        found = await stub.Search(search_service_pb2.SearchRequest(collection="pets", parts=[part], top_k=20))
        assert found.hits[0].id == "p6"
        assert len(found.hits) == 8


async def test_only_the_selected_services_are_there(tmp_path: Path) -> None:
    async with tiny_server(tmp_path, services=("embedding",)) as (_, channel):
        embedding: Any = EmbeddingServiceStub(channel)
        assert len((await embedding.EmbedImages(images())).results) == 1
        index: Any = IndexServiceStub(channel)
        with pytest.raises(aio.AioRpcError) as failed:
            await index.ListCollections(index_service_pb2.ListCollectionsRequest())
        assert failed.value.code() is Code.UNIMPLEMENTED
        with pytest.raises(aio.AioRpcError) as unknown:
            await health(channel, NAMES[1])
        assert unknown.value.code() is Code.NOT_FOUND
    assert not (tmp_path / "data").exists()


async def test_a_taken_port_is_a_clear_error(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        config = serve_config(tmp_path, port=port, services=("index",))
        with pytest.raises(StartupError, match=f"cannot listen on 127.0.0.1:{port}: the port is taken"):
            await Server(config).start()
    # And nothing is left locked.
    async with running_server(config) as server:
        assert server.address == f"127.0.0.1:{port}"


async def test_a_second_server_on_the_same_data_is_refused(tmp_path: Path) -> None:
    config = serve_config(tmp_path, services=("index",))
    async with running_server(config):
        with pytest.raises(StartupError, match=r"data_dir .* is in use by another process"):
            await Server(config).start()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_root": Path("nowhere")}, "image_root 'nowhere': the image root is no directory"),
        (
            {"tls_certificate": Path("no.pem"), "tls_key": Path("no.key")},
            "tls_key is 'no.key' and cannot be read",
        ),
    ],
)
async def test_what_cannot_be_used_is_named(changes: dict[str, Path], message: str, tmp_path: Path) -> None:
    with pytest.raises(StartupError, match=message):
        await Server(serve_config(tmp_path, services=("index",), **changes)).start()


async def test_a_data_folder_that_is_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("")
    with pytest.raises(StartupError, match=r"data_dir .* cannot be opened"):
        await Server(serve_config(tmp_path, services=("index",))).start()


async def test_a_model_that_cannot_be_loaded_ends_the_server(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="nowhere"):
        await serve(serve_config(tmp_path, model="nowhere"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_stops_the_server(number: signal.Signals, tmp_path: Path) -> None:
    native.save(build_model(), tmp_path / "tiny")
    addresses: list[str] = []

    def ready(server: Server) -> None:
        addresses.append(server.address)
        os.kill(os.getpid(), number)

    await asyncio.wait_for(serve(serve_config(tmp_path, model=str(tmp_path / "tiny")), ready=ready), 30)
    assert addresses[0].startswith("127.0.0.1:")
    with pytest.raises(aio.AioRpcError) as gone:
        async with aio.insecure_channel(addresses[0]) as channel:
            await health(channel)
    assert gone.value.code() is Code.UNAVAILABLE


async def test_a_signal_while_loading_stops_the_server(tmp_path: Path) -> None:
    model = GatedModel()
    model.shut()
    worker = make_worker(model)
    server = Server(serve_config(tmp_path, grace_seconds=0.5), engine=worker)
    await server.start()
    await model.wait_for_pass()
    await asyncio.wait_for(server.stop(), 10)
    model.gate.set()
    await poll(lambda: worker.ready.done(), "the thread to end")
    assert isinstance(worker, ModelWorker)


def make_certificates(folder: Path) -> tuple[Path, Path]:
    """A self-signed certificate of localhost, by the openssl command."""
    certificate, key = folder / "cert.pem", folder / "key.pem"
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "2",
        "-subj",
        "/CN=localhost",
    ]
    command += ["-addext", "subjectAltName=DNS:localhost", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True, timeout=50)
    return certificate, key


def has_openssl() -> bool:
    return any((Path(folder) / "openssl").exists() for folder in os.get_exec_path())


@pytest.mark.skipif(not has_openssl(), reason="needs the openssl command to make certificates")
async def test_tls_and_client_certificates(tmp_path: Path) -> None:
    certificate, key = make_certificates(tmp_path)
    pair = {"key": key.read_bytes(), "chain": certificate.read_bytes()}
    config = serve_config(
        tmp_path,
        host="localhost",
        services=("index",),
        tls_certificate=certificate,
        tls_key=key,
        tls_client_ca=certificate,
    )
    async with running_server(config) as server:
        trusted = grpc.ssl_channel_credentials(pair["chain"], pair["key"], pair["chain"])
        async with aio.secure_channel(server.address, trusted) as channel:
            assert await health(channel) == SERVING
        for stranger in (grpc.ssl_channel_credentials(pair["chain"]), None):
            channel = (
                aio.insecure_channel(server.address)
                if stranger is None
                else aio.secure_channel(server.address, stranger)
            )
            async with channel:
                with pytest.raises(aio.AioRpcError) as refused:
                    await health(channel)
                assert refused.value.code() is Code.UNAVAILABLE
