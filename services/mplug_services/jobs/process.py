"""A job's process, as the server sees it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from pathlib import Path


class JobProcess:
    """Started by `start`. It ends with this process, however that is.

    Args:
        process: with a pipe as its standard input.
    """

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @classmethod
    async def start(cls, folder: Path) -> JobProcess:
        """Start the process of the job in a folder; what it prints goes to `process.log` there."""
        # A session of its own: Ctrl-C at the server's terminal is for the server, which then ends it.
        # -P: nothing in the working directory can stand for a module.
        with (folder / "process.log").open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-m", "mplug_services.jobs.child", str(folder)),
                stdin=asyncio.subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        return cls(process)

    async def wait(self) -> int:
        """Wait for the end; the exit code, or minus the signal that ended it."""
        return await self._process.wait()

    async def kill(self) -> None:
        """End it and all that it started, at once: what it had done by its last checkpoint stays."""
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
        await self._process.wait()
