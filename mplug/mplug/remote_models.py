"""Models behind addresses: how they are told from folders, and who speaks to them.

Whichever installed package registers an entry point `connect` of the group `mplug.remote` does, so that this package
knows nothing of the network.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from mplug.errors import MplugError

REMOTE_GROUP = "mplug.remote"
REMOTE_NAME = "connect"

# A name or number of a host, or an IPv6 number in brackets, and a port.
_ADDRESS = re.compile(r"^([A-Za-z0-9._-]+|\[[0-9a-fA-F:.]+\]):\d{1,5}$")


def is_address(source: str) -> bool:
    """Whether this is `host:port` and not something on the disk."""
    return _ADDRESS.match(source) is not None and not Path(source).exists()


# Any: fields of GenerationConfig; and the runner, which is of the task's kind.
def connect(task: str, address: str, settings: Mapping[str, Any]) -> Any:
    """What does a task at an address.

    Args:
        task: of `mplug.pipelines.PIPELINE_TASKS`, then it is a `mplug.pipelines.Runner`; or a value of
            `mplug.text_tasks.TEXT_TASKS`, then a `mplug.text_pipelines.TextRunner`.
        address: `host:port`.
        settings: of everything that the runner generates; a `TextRunner` has them with each call.

    Raises:
        MplugError: no installed package speaks to servers, or an unknown setting.
    """
    for entry in entry_points(group=REMOTE_GROUP, name=REMOTE_NAME):
        return entry.load()(task, address, settings)
    raise MplugError(
        f"an address needs a package that registers {REMOTE_NAME!r} under {REMOTE_GROUP!r}; "
        "install mplug-serve (again, if this is a checkout from before it did)"
    )
