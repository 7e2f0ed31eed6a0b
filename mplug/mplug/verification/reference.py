"""ModelScope's half: a child process, so that neither package meets the other's libraries and global state."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mplug.errors import MplugError
from mplug.verification.compare import Array

RUNNER = Path(__file__).parent / "reference_runner.py"
REQUIREMENTS = (
    "modelscope==1.40.2 'transformers<5' torch torchvision timm opencv-python-headless addict simplejson "
    "python-dateutil sortedcontainers"
)
"""What its mPLUG and that one's preprocessor need; ModelScope's own requirements do not say."""
SHOWN_OUTPUT = 2000
"""Characters of a dead process's last words."""


class VerificationError(MplugError):
    """ModelScope cannot be asked."""


@dataclass(frozen=True, slots=True)
class ReferenceRequest:
    """What ModelScope is asked to do."""

    folder: Path
    task: str
    """ModelScope's name."""
    image: Path
    text: str


@dataclass(frozen=True, slots=True)
class ReferenceRun:
    """What came of it."""

    stages: Mapping[str, Array]
    versions: Mapping[str, str]
    notes: tuple[str, ...]
    """What was done to let it run at all."""
    stopped: str | None
    """The error that ended it before its last stage."""


def run_reference(request: ReferenceRequest, python: str | Path = sys.executable) -> ReferenceRun:
    """Run ModelScope's classes, on the CPU, in another process.

    Args:
        request: folder, task, picture and text.
        python: interpreter of the environment that has ModelScope.

    Raises:
        VerificationError: no such interpreter, ModelScope cannot be imported there, or the process died.
    """
    with tempfile.TemporaryDirectory(prefix="mplug-verify-") as name:
        scratch = Path(name)
        asked = {
            "folder": str(request.folder.resolve()),
            "task": request.task,
            "image": str(request.image.resolve()),
            "text": request.text,
        }
        (scratch / "request.json").write_text(json.dumps(asked), encoding="utf-8")
        command = [str(python), str(RUNNER), str(scratch / "request.json"), name]
        output = _run(command, python)
        report_file = scratch / "report.json"
        if not report_file.is_file():
            raise VerificationError(f"{python} ended before ModelScope did ({output})")
        report = json.loads(report_file.read_text(encoding="utf-8"))
        if "cannot import" in report:
            raise VerificationError(_cannot_import(report, python))
        with np.load(scratch / "stages.npz") as stages:
            arrays = {stage: stages[stage] for stage in stages.files}
    return ReferenceRun(arrays, report["versions"], tuple(report["notes"]), report.get("stopped"))


def _run(command: list[str], python: str | Path) -> str:
    """Run to the end; what is returned describes the end, for a message."""
    environment = {
        **os.environ,
        "CUDA_VISIBLE_DEVICES": "",
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
    }
    try:
        ended = subprocess.run(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            check=False,
        )
    except OSError as error:
        raise VerificationError(
            f"{python} cannot be run: {error.strerror}; --reference-python names the Python of the environment "
            "that has ModelScope"
        ) from error
    return f"exit status {ended.returncode}: {ended.stdout.strip()[-SHOWN_OUTPUT:] or 'no output'}"


def _cannot_import(report: Mapping[str, Any], python: str | Path) -> str:
    return (
        f"ModelScope's mPLUG cannot be imported by {python}: {report['cannot import']}. Install it in an "
        f"environment of its own, `pip install {REQUIREMENTS}`, and name that one's Python with --reference-python"
    )
