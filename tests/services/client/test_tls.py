import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from mplug_api.v1 import index_service_pb2
from mplug_services.client import AsyncClient, Client, RetryPolicy, TlsOptions, UnavailableError
from services.client.scripted_server import ScriptedServer, scripted_server

OPENSSL = shutil.which("openssl")
ONCE = RetryPolicy(max_attempts=1)

pytestmark = pytest.mark.skipif(
    OPENSSL is None, reason="openssl, which makes the certificates, is not installed"
)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tls")
    command = f"{OPENSSL} req -x509 -newkey rsa:2048 -nodes -days 2 -keyout key.pem -out cert.pem -subj /CN=pictures"
    names = ["-addext", "subjectAltName=DNS:pictures"]
    subprocess.run([*command.split(), *names], cwd=folder, check=True, capture_output=True)
    return folder / "cert.pem"


@pytest.fixture
def server(certificate: Path) -> Iterator[ScriptedServer]:
    key = certificate.with_name("key.pem").read_bytes()
    with scripted_server(grpc.ssl_server_credentials([(key, certificate.read_bytes())])) as script:
        script.on("Count", lambda request, context: index_service_pb2.CountResponse(count=7))
        yield script


async def test_both_clients_speak_tls(server: ScriptedServer, certificate: Path) -> None:
    from_file = TlsOptions(root_certificates=certificate, server_name="pictures")
    from_bytes = TlsOptions(root_certificates=certificate.read_bytes(), server_name="pictures")
    with Client(server.address, tls=from_file) as client:
        assert client.count("pets") == 7
    async with AsyncClient(server.address, tls=from_bytes) as other:
        assert await other.count("pets") == 7


def test_a_certificate_for_another_name_is_not_trusted(server: ScriptedServer, certificate: Path) -> None:
    tls = TlsOptions(root_certificates=certificate, server_name="elsewhere")
    with Client(server.address, tls=tls, retry=ONCE, timeout=10) as client, pytest.raises(UnavailableError):
        client.count("pets")


def test_a_plain_client_does_not_reach_a_tls_server(server: ScriptedServer) -> None:
    with Client(server.address, retry=ONCE, timeout=10) as client, pytest.raises(UnavailableError):
        client.count("pets")


def test_a_certificate_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Client(tls=TlsOptions(root_certificates=tmp_path / "gone.pem"))
