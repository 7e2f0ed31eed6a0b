from collections.abc import Iterator

import pytest

from mplug_services.client import RetryPolicy
from services.client.scripted_server import ScriptedServer, scripted_server

FAST_RETRY = RetryPolicy(max_attempts=4, initial_backoff=0.01, max_backoff=0.05)


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with scripted_server() as script:
        yield script
