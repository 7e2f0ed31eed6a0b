"""How much memory a package's `load` takes at its peak, seen from a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HAS_PEAK = Path("/proc/self/clear_refs").exists()
"""Whether the peak can be read: on Linux."""

_MEASURE = """
import importlib, re, sys
from itertools import chain
from pathlib import Path
import torch

def status(name):
    return int(re.search(name + r":\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024

package = importlib.import_module(sys.argv[1])
dtype = getattr(torch, sys.argv[4])
package.load(Path(sys.argv[2]), dtype=dtype)  # what is imported and made once is no part of it
Path("/proc/self/clear_refs").write_text("5")
before = status("VmRSS")
model = package.load(Path(sys.argv[3]), dtype=dtype)
print(status("VmHWM") - before, sum(tensor.nbytes for tensor in chain(model.parameters(), model.buffers())))
"""


def peak_of_loading(package: str, first: Path, second: Path, dtype: str = "float32") -> tuple[int, int]:
    """Load a small folder, then another: the bytes that this took at most, and those of the weights."""
    command = [sys.executable, "-c", _MEASURE, package, str(first), str(second), dtype]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    peak, weights = (int(number) for number in result.stdout.split())
    return peak, weights
