"""Is faiss on the GPU the same search as on the CPU, and how much faster."""

from __future__ import annotations

import time
from typing import Any

import faiss
import numpy as np
import torch

VECTORS, QUERIES, WIDTH, NEAREST = 200_000, 256, 256, 10


def compare(device: torch.device, *, tiny: bool) -> dict[str, Any]:
    """Exact search by inner product: shared neighbours, and seconds of both."""
    if not hasattr(faiss, "StandardGpuResources") or device.type != "cuda":
        return {"skipped": "this faiss has no GPU part" if device.type == "cuda" else "no GPU"}
    generator = np.random.default_rng()
    vectors, queries = (
        generator.standard_normal((count, WIDTH), dtype=np.float32)
        for count in (2_000 if tiny else VECTORS, QUERIES)
    )
    index = faiss.IndexFlatIP(WIDTH)
    index.add(vectors)
    on_gpu = faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), 0, index)
    ours, gpu_seconds = _search(on_gpu, queries)
    theirs, cpu_seconds = _search(index, queries)
    shared = float(np.mean([len(set(a) & set(b)) / NEAREST for a, b in zip(ours, theirs, strict=True)]))
    return {
        "shared_neighbours": shared,
        "seconds": gpu_seconds,
        "cpu_seconds": cpu_seconds,
        "passed": shared > 0.999,
        "summary": f"{shared:.2%} of neighbours shared, {cpu_seconds / gpu_seconds:.1f} times the CPU's speed",
    }


def _search(index: Any, queries: Any) -> tuple[Any, float]:
    index.search(queries, NEAREST)
    start = time.perf_counter()
    _, found = index.search(queries, NEAREST)
    return found, time.perf_counter() - start
