"""A server as a child process, for as long as somebody needs it."""

import queue
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from mplug_services.cli.common import CliError

READY = re.compile(r"^mplug ready at (?P<address>\S+)")
"""The line that `mplug serve` prints when it takes calls; {address} is what clients connect to."""

START_SECONDS = 180.0
STOP_SECONDS = 30.0
_SHOWN_LINES = 15


class ServerProcess:
    """Runs `mplug serve` on a free port until it is left."""

    def __init__(self, data_dir: Path, arguments: Sequence[str] = ()) -> None:
        self._command = [
            sys.executable,
            "-m",
            "mplug_services.cli",
            "serve",
            "--host",
            "127.0.0.1",
            "--port",
            "0",
        ]
        self._command += ["--data-dir", str(data_dir), *arguments]
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._output: list[str] = []
        self._process: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None
        self.address = ""

    def __enter__(self) -> Self:
        # Its own session: Ctrl-C at the terminal reaches the parent alone, which then stops the server.
        self._process = subprocess.Popen(
            self._command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            start_new_session=True,
        )
        assert self._process.stdout is not None
        self._reader = threading.Thread(target=self._read, args=(self._process.stdout,), daemon=True)
        self._reader.start()
        try:
            self.address = self._wait_until_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Asks the server to finish what it has begun; ends it when it does not."""
        if self._process is None:
            return
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._reader is not None:
            self._reader.join()

    def _read(self, stream: IO[str]) -> None:
        with stream:
            for line in stream:
                self._lines.put(line)
        self._lines.put(None)

    def _wait_until_ready(self) -> str:
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                line = self._lines.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                raise CliError(f"the server was not ready after {START_SECONDS:.0f} s") from None
            if line is None:
                said = "".join(self._output[-_SHOWN_LINES:]).strip()
                raise CliError(f"the server did not start; it said:\n{said}")
            self._output.append(line)
            if match := READY.match(line):
                return match["address"]
