"""A real gRPC server whose methods answer what a test tells them to."""

from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import contextmanager

import grpc
from google.protobuf.message import Message
from google.rpc.status_pb2 import Status

from mplug_api.v1 import (
    caption_service_pb2_grpc,
    embedding_service_pb2_grpc,
    index_service_pb2_grpc,
    model_service_pb2,
    model_service_pb2_grpc,
    rerank_service_pb2_grpc,
    search_service_pb2_grpc,
    vqa_service_pb2_grpc,
)

Handler = Callable[..., object]

LIMITS = model_service_pb2.Limits(
    max_message_bytes=1 << 20, max_batch_size=4, max_page_size=100, max_top_k=100
)


def abort(context: grpc.ServicerContext, code: grpc.StatusCode, message: str, *details: Message) -> None:
    """Ends a call as the server does: with a google.rpc.Status in the trailing metadata."""
    status = Status(code=code.value[0], message=message)
    for detail in details:
        status.details.add().Pack(detail)
    context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()),))
    context.abort(code, message)


class ScriptedServer:
    """Answers each RPC with the handler set under its name, and counts the calls."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.handlers: dict[str, Handler] = {}
        self.on(
            "GetServerInfo", lambda request, context: model_service_pb2.GetServerInfoResponse(limits=LIMITS)
        )
        self.address = ""

    def on(self, rpc: str, handler: Handler) -> None:
        """Sets what an RPC answers."""
        self.handlers[rpc] = handler

    def answer(self, rpc: str, request: object, context: grpc.ServicerContext) -> object:
        """Calls the handler of an RPC."""
        self.calls.append(rpc)
        return self.handlers[rpc](request, context)


def _servicer(base: type, server: ScriptedServer) -> object:
    def method(rpc: str) -> Callable[[object, object, grpc.ServicerContext], object]:
        return lambda self, request, context: server.answer(rpc, request, context)

    names = [name for name in vars(base) if not name.startswith("_")]
    return type(f"Scripted{base.__name__}", (base,), {name: method(name) for name in names})()


@contextmanager
def scripted_server(credentials: grpc.ServerCredentials | None = None) -> Iterator[ScriptedServer]:
    """A server on a free port of the loopback interface, with TLS where it has credentials."""
    script = ScriptedServer()
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=4))
    for module, name in (
        (caption_service_pb2_grpc, "CaptionService"),
        (embedding_service_pb2_grpc, "EmbeddingService"),
        (index_service_pb2_grpc, "IndexService"),
        (model_service_pb2_grpc, "ModelService"),
        (rerank_service_pb2_grpc, "RerankService"),
        (search_service_pb2_grpc, "SearchService"),
        (vqa_service_pb2_grpc, "VqaService"),
    ):
        servicer = _servicer(getattr(module, f"{name}Servicer"), script)
        getattr(module, f"add_{name}Servicer_to_server")(servicer, server)
    if credentials is None:
        port = server.add_insecure_port("127.0.0.1:0")
    else:
        port = server.add_secure_port("127.0.0.1:0", credentials)
    script.address = f"127.0.0.1:{port}"
    server.start()
    try:
        yield script
    finally:
        server.stop(grace=None).wait()
