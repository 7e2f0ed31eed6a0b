"""What a wheel carries of the kernels beyond their Python: results of real runs, and a library where one was compiled.

A wheel with a compiled library is for one platform; one without is for all, and plain torch runs.
"""

import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

RESULTS = "kernels/bench/results"
PACKAGE = "mplug_kernels"
LIBRARY = "kernels/mplug_kernels/libmplug_kernels.so"


class KernelsHook(BuildHookInterface[Any]):
    """Called by hatchling, as pyproject.toml says."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add files to a wheel; an editable install reads the checkout's own."""
        if version == "editable":
            return
        root = Path(self.root)
        for result in sorted((root / RESULTS).glob("*.json")):
            build_data["force_include"][str(result)] = f"{PACKAGE}/measured/{result.name}"
        library = root / LIBRARY
        if library.exists():
            for path in (library, library.with_suffix(".sha256")):
                build_data["force_include"][str(path)] = f"{PACKAGE}/{path.name}"
            build_data["pure_python"] = False
            build_data["tag"] = f"py3-none-{sysconfig.get_platform().replace('-', '_').replace('.', '_')}"
