"""How the server listens: channel options, TLS, the port."""

from __future__ import annotations

from pathlib import Path

import grpc
from grpc import aio

from mplug_services.config import ConfigurationError, ServeConfig


class StartupError(ConfigurationError):
    """The server cannot start as it is configured: a taken port, a locked directory, an unreadable key."""


def channel_options(config: ServeConfig) -> list[tuple[str, int]]:
    """Options of the gRPC server."""
    return [
        ("grpc.max_receive_message_length", config.max_message_bytes),
        ("grpc.max_send_message_length", config.max_message_bytes),
        # Two servers on one port would answer in turns, each with half of the truth: a taken port is an error.
        ("grpc.so_reuseport", 0),
        # Clients ping every 10 s at most, also while no call runs; gRPC's own limit of one ping in 5 minutes
        # ends their connections with too_many_pings.
        ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
        ("grpc.keepalive_permit_without_calls", 1),
        # A client that is gone without a word is noticed, so that its queued work is dropped.
        ("grpc.keepalive_time_ms", 60_000),
        ("grpc.keepalive_timeout_ms", 20_000),
    ]


def listen(server: aio.Server, config: ServeConfig) -> str:
    """Bind the configured port.

    Returns:
        `host:port` that clients connect to.

    Raises:
        StartupError: the port is taken or not ours to take, or a TLS file cannot be read.
    """
    host = f"[{config.host}]" if ":" in config.host else config.host
    wanted = f"{host}:{config.port}"
    try:
        if config.tls_certificate is None:
            port = server.add_insecure_port(wanted)
        else:
            port = server.add_secure_port(wanted, _credentials(config))
    except RuntimeError as error:
        raise StartupError(
            f"cannot listen on {wanted}: the port is taken, or the address is not this machine's; "
            "choose another port, or 0 for any free one"
        ) from error
    reachable = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}.get(host, host)
    return f"{reachable}:{port}"


def _credentials(config: ServeConfig) -> grpc.ServerCredentials:
    assert config.tls_key is not None, "ServeConfig has both or none"
    assert config.tls_certificate is not None, "ServeConfig has both or none"
    pair = (_read(config.tls_key, "tls_key"), _read(config.tls_certificate, "tls_certificate"))
    if config.tls_client_ca is None:
        return grpc.ssl_server_credentials([pair])
    authorities = _read(config.tls_client_ca, "tls_client_ca")
    return grpc.ssl_server_credentials([pair], root_certificates=authorities, require_client_auth=True)


def _read(file: Path, setting: str) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise StartupError(f"{setting} is {str(file)!r} and cannot be read: {error.strerror}") from error
