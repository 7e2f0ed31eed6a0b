"""Flows over ModelService, and the server's limits, asked for once."""

from mplug_api.v1 import model_service_pb2
from mplug_services.client.calls import Flow, ask
from mplug_services.client.types import Limits, ServerInfo
from mplug_services.client.wire import server_info_from_wire


class LimitsCache:
    """The limits of the server a client talks to; asked for when the first batch needs them."""

    def __init__(self) -> None:
        self.limits: Limits | None = None

    def get(self) -> Flow[Limits]:
        """The limits, from the server the first time."""
        if self.limits is None:
            self.limits = (yield from server_info()).limits
        return self.limits


def server_info() -> Flow[ServerInfo]:
    """What the server is and holds."""
    request = model_service_pb2.GetServerInfoRequest()
    response_type = model_service_pb2.GetServerInfoResponse
    response = yield from ask("ModelService", "GetServerInfo", request, response_type)
    return server_info_from_wire(response)
