"""In which precision a run computes."""

import torch

from mplug.errors import MplugError

PRECISIONS = ("bfloat16", "float32")


def autocast(precision: str, device: str = "cpu") -> torch.autocast:
    """The autocast of a forward pass, for ``bfloat16`` or ``float32``, on a type of device.

    One context for one forward pass: within it, torch casts a weight once and does not see it change.

    Raises:
        MplugError: another precision.
    """
    if precision not in PRECISIONS:
        raise MplugError(f"precision={precision!r}: there are {', '.join(PRECISIONS)}.")
    return torch.autocast(device, torch.bfloat16, enabled=precision == "bfloat16")
