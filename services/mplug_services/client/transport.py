"""How a client reaches its server: channel options and certificates."""

from collections.abc import Mapping
from pathlib import Path

import grpc
from google.protobuf.message import Message

from mplug_services.client.types import TlsOptions

DEFAULT_ADDRESS = "localhost:50051"
DEFAULT_TIMEOUT = 60.0
INGEST_PATH = "/mplug_api.v1.SearchService/Ingest"

CHANNEL_OPTIONS: tuple[tuple[str, int], ...] = (
    # The server publishes and enforces the limits of messages; a second, smaller one here would only
    # surprise.
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    # Our own retries wait; the channel should be ready to connect again by then (gRPC's default: 1 s).
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2000),
)


def credentials(tls: TlsOptions) -> grpc.ChannelCredentials:
    """Channel credentials from PEM bytes or files.

    Raises:
        OSError: A file cannot be read.
    """
    return grpc.ssl_channel_credentials(
        _pem(tls.root_certificates), _pem(tls.private_key), _pem(tls.certificate_chain)
    )


def _pem(source: bytes | Path | None) -> bytes | None:
    return source.read_bytes() if isinstance(source, Path) else source


def channel_options(tls: TlsOptions | None) -> list[tuple[str, int | str]]:
    """Options of the channel, with the name to check the server's certificate against."""
    options: list[tuple[str, int | str]] = list(CHANNEL_OPTIONS)
    if tls is not None and tls.server_name:
        options.append(("grpc.ssl_target_name_override", tls.server_name))
    return options


def headers(metadata: Mapping[str, str] | None) -> tuple[tuple[str, str], ...]:
    """Metadata in the form that gRPC takes; keys are lower case on the wire."""
    return tuple((key.lower(), value) for key, value in (metadata or {}).items())


def serialize(message: Message) -> bytes:
    """A message as bytes; generated classes override the base class's method, which cannot be passed."""
    return message.SerializeToString()
