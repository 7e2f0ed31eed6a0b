"""What is known of the compiled kernels on a device."""

from __future__ import annotations

import torch

from mplug_kernels import dispatch
from mplug_services.served_model import AttentionKernel


def attention_kernels(device: str) -> tuple[AttentionKernel, ...]:
    """Each of them, and whether it or plain torch runs there.

    Args:
        device: as `cpu` or `cuda:0`.
    """
    said = dispatch.explain(torch.device(device))
    return tuple(AttentionKernel(name, each.compiled, str(each)) for name, each in said.items())


def kernels_here() -> tuple[AttentionKernel, ...]:
    """The same of this machine's GPU, or of its processor where torch finds none."""
    return attention_kernels("cuda" if torch.cuda.is_available() else "cpu")
