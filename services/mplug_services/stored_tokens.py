"""How image tokens are kept: as fp16, or as int8 with a scale for each token.

Legend: N visual tokens, D their width.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

INT8_MAX = 127
SCALE_BYTES = np.dtype("<f4").itemsize


class TokenStorage(StrEnum):
    """What becomes of image tokens after they were used."""

    NONE = "none"
    """They are forgotten."""
    FP16 = "fp16"
    """Two bytes a number; 11 bits of it are exact."""
    INT8 = "int8"
    """One byte a number, and each token's largest number as its scale: within 1/254 of that."""


@dataclass(frozen=True, slots=True, eq=False)
class StoredTokens:
    """Image tokens of one picture, as they are kept."""

    values_ND: NDArray[np.float16] | NDArray[np.int8]
    scales_N: NDArray[np.float32] | None = None
    """With int8: what 127 stands for, divided by 127."""

    @property
    def nbytes(self) -> int:
        """Bytes of the numbers, as in memory so in `to_bytes`."""
        return self.values_ND.nbytes + (0 if self.scales_N is None else self.scales_N.nbytes)

    def decode(self) -> NDArray[np.float16]:
        """float16 (N, D); not to be written to."""
        if self.scales_N is None:
            return self.values_ND.view(np.float16)
        return (self.values_ND * self.scales_N[:, None]).astype(np.float16)

    def to_bytes(self) -> bytes:
        """The numbers, little-endian: the scales, where there are any, then the tokens."""
        scales = b"" if self.scales_N is None else self.scales_N.astype("<f4").tobytes()
        return scales + self.values_ND.astype(self.values_ND.dtype.newbyteorder("<")).tobytes()


def encode(tokens_ND: NDArray[np.floating], storage: TokenStorage) -> StoredTokens | None:
    """Tokens in the form in which they are kept.

    Returns:
        None where they are not kept: under `NONE`, or where a number is beyond what the form can say.
    """
    if storage is TokenStorage.NONE or tokens_ND.size == 0:
        return None
    with np.errstate(over="ignore"):
        halves_ND = np.array(tokens_ND, dtype=np.float16)  # a copy: the caller's array may change
    # int8 is read back as float16, so its numbers must fit into that, too.
    if not np.isfinite(halves_ND).all():
        return None
    if storage is TokenStorage.FP16:
        return StoredTokens(halves_ND)
    tokens_ND = tokens_ND.astype(np.float32)
    scales_N = np.abs(tokens_ND).max(axis=1) / INT8_MAX
    steps_ND = tokens_ND / np.where(scales_N > 0, scales_N, 1)[:, None]
    # A subnormal scale is so coarse that a quotient may leave the range.
    values_ND = np.clip(np.rint(steps_ND), -INT8_MAX, INT8_MAX).astype(np.int8)
    return StoredTokens(values_ND, scales_N.astype(np.float32))


def size_in_bytes(storage: TokenStorage, rows: int, width: int) -> int:
    """How many bytes `StoredTokens.to_bytes` gives for (rows, width)."""
    if storage is TokenStorage.INT8:
        return rows * (width + SCALE_BYTES)
    return rows * width * 2


def from_bytes(data: bytes, storage: TokenStorage, rows: int, width: int) -> StoredTokens:
    """What `StoredTokens.to_bytes` gave; `data` has `size_in_bytes`."""
    if storage is TokenStorage.INT8:
        scales_N = np.frombuffer(data, "<f4", count=rows).astype(np.float32)
        values_ND = np.frombuffer(data, np.int8, offset=rows * SCALE_BYTES).reshape(rows, width)
        return StoredTokens(values_ND, scales_N)
    return StoredTokens(np.frombuffer(data, "<f2").astype(np.float16, copy=False).reshape(rows, width))
