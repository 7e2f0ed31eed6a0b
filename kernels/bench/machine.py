"""What the figures were taken on."""

from __future__ import annotations

import platform
import shutil
import subprocess
from typing import Any

import torch


def describe(device: torch.device) -> dict[str, Any]:
    """Device and versions, as JSON has them."""
    return {"device": _device(device), "versions": _versions(device)}


def processors(device: torch.device) -> int:
    """Multiprocessors of a GPU; 1 for anything else."""
    if device.type != "cuda":
        return 1
    count: int = torch.cuda.get_device_properties(device).multi_processor_count
    return count


def cache_bytes(device: torch.device) -> int:
    """Of a GPU's L2; 0 for anything else."""
    if device.type != "cuda":
        return 0
    size: int = torch.cuda.get_device_properties(device).L2_cache_size
    return size


def _device(device: torch.device) -> dict[str, Any]:
    if device.type != "cuda":
        return {"name": platform.processor() or platform.machine(), "capability": None}
    properties = torch.cuda.get_device_properties(device)
    return {
        "name": properties.name,
        "capability": [properties.major, properties.minor],
        "processors": processors(device),
        "memory_bytes": properties.total_memory,
        "cache_bytes": cache_bytes(device),
    }


def _versions(device: torch.device) -> dict[str, Any]:
    versions: dict[str, Any] = {"python": platform.python_version(), "torch": str(torch.__version__)}
    if device.type == "cuda":
        versions |= {
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),  # type: ignore[no-untyped-call]
            "driver": _driver(),
        }
    return versions


def _driver() -> str | None:
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return None
    command = [tool, "--query-gpu=driver_version", "--format=csv,noheader"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    return done.stdout.strip().splitlines()[0] if done.stdout.strip() else None
