"""The CUDA kernels on the host: kernels/csrc compiled by g++ against tests/kernels/emulator, under sanitizers.

Objects are kept in build/emulator, by a hash of what they are made of. A program runs as a process of its own: what
it finds wrong with a kernel (a race, an access out of bounds, undefined behaviour) ends it.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import TracebackType

import pytest
import torch
from torch import Tensor

ROOT = Path(__file__).parent.parent
EMULATOR = ROOT / "tests" / "kernels" / "emulator"
CSRC = ROOT / "kernels" / "csrc"
CACHE = ROOT / "build" / "emulator"

COMMON = ("-std=c++17", "-g1", "-fno-omit-frame-pointer", "-DXATTN_EMULATE")
# AddressSanitizer called at every access, not inlined: the emulator listens to the calls (emulator/hooks.cpp).
SANITIZED: tuple[str, ...] = (
    "-O1",
    "-fsanitize=address,undefined",
    "-fno-sanitize-recover=all",
    "--param=asan-instrumentation-with-call-threshold=0",
)
PLAIN: tuple[str, ...] = ("-O2",)
HOOKS = tuple(
    f"-Wl,--wrap=__asan_{kind}{size}" for kind in ("load", "store") for size in (1, 2, 4, 8, 16, "N")
)
CORE = ("block.cpp", "fiber.cpp", "hooks.cpp", "memory.cpp", "shadow.cpp", "warp.cpp")

FORMS = {"kv": 0, "absorbed_two": 1, "absorbed_one": 2, "merge": 3}
TYPES = {torch.float16: 0, torch.bfloat16: 1, torch.float32: 2}
REQUEST = struct.Struct("<11qd")
SHARED_BYTES = {"sm_80": 163 * 1024, "sm_90": 227 * 1024}
"""What a block may have of it."""


class KernelFaultError(Exception):
    """What the emulator or a sanitizer said before it ended the process."""


def compiler() -> str:
    """Path of g++; skips the test where there is none."""
    path = shutil.which("g++")
    if path is None:
        pytest.skip("the emulator wants a C++ compiler: g++ is not on the path")
    return path


def build_planted() -> Path:
    """The emulator's own test."""
    return _link([EMULATOR / "planted.cpp"], (EMULATOR,), CACHE)


def build_cases(csrc: Path = CSRC, cache: Path = CACHE) -> Path:
    """All kernels, and what runs cases through them."""
    return _link([EMULATOR / "cases.cpp", *sorted(csrc.glob("instances_*.cu"))], (EMULATOR, csrc), cache)


@dataclass(frozen=True, slots=True)
class Problem:
    """One call of an attention kernel."""

    form: str
    """A key of `FORMS`."""
    q_SLHK: Tensor
    pools: tuple[Tensor, ...]
    """Keys and values (I, N, H, 64), or image rows (I, N, D)."""
    image_index: tuple[int, ...]
    kv_lens: tuple[int, ...]
    scale: float


class Emulator:
    """A process of the program that `build_cases` made; started again when a fault has ended it."""

    def __init__(self, program: Path) -> None:
        self.program = program
        self.process: subprocess.Popen[bytes] | None = None
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115  # closed by __exit__

    def __enter__(self) -> Emulator:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.communicate()
        self.errors.close()

    def attend(
        self, problem: Problem, *, splits: int = 1, seed: int = 0, architecture: str = "sm_90"
    ) -> tuple[Tensor, Tensor]:
        """Out like q, and lse float32 (S, L, H), of one call under one schedule.

        Raises:
            KernelFaultError: the kernel did something wrong.
        """
        q = problem.q_SLHK
        indices = [torch.tensor(x, dtype=torch.int32) for x in (problem.image_index, problem.kv_lens)]
        sequences, tokens, heads, width = q.shape
        images, keys = problem.pools[0].shape[:2]
        shape = (sequences, tokens, heads, images, keys, width, splits)
        head = (FORMS[problem.form], TYPES[q.dtype], seed, SHARED_BYTES[architecture])
        return self._ask(head + shape, problem.scale, [*indices, q, *problem.pools], q, q.shape[:3])

    def merge(self, out1: Tensor, lse1: Tensor, out2: Tensor, lse2: Tensor) -> tuple[Tensor, Tensor]:
        """Two results joined: outs (rows, width), lses float32 (rows)."""
        rows, width = out1.shape
        head = (FORMS["merge"], TYPES[out1.dtype], 0, SHARED_BYTES["sm_90"], rows, 0, 0, 0, 0, width, 0)
        return self._ask(head, 1.0, [out1, lse1, out2, lse2], out1, lse1.shape)

    def _ask(
        self, head: Sequence[int], scale: float, tensors: list[Tensor], like: Tensor, lse_shape: torch.Size
    ) -> tuple[Tensor, Tensor]:
        process = self._running()
        assert process.stdin is not None
        assert process.stdout is not None
        answer = 8 + like.nbytes + 4 * lse_shape.numel()
        try:
            process.stdin.write(REQUEST.pack(*head, scale) + b"".join(map(_bytes_of, tensors)))
            process.stdin.flush()
            data = process.stdout.read(answer)
        except BrokenPipeError:
            data = b""
        if len(data) < answer:
            raise KernelFaultError(self._last_words(process))
        (status,) = struct.unpack_from("<q", data)
        if status != 0:
            raise ValueError(f"the launch was refused with status {status}")
        out = torch.frombuffer(bytearray(data[8 : 8 + like.nbytes]), dtype=like.dtype).view(like.shape)
        return out, torch.frombuffer(bytearray(data[8 + like.nbytes :]), dtype=torch.float32).view(lse_shape)

    def _running(self) -> subprocess.Popen[bytes]:
        if self.process is None:
            pipe = subprocess.PIPE
            self.process = subprocess.Popen(
                [self.program], stdin=pipe, stdout=pipe, stderr=self.errors, env=environment()
            )
        return self.process

    def _last_words(self, process: subprocess.Popen[bytes]) -> str:
        process.kill()
        process.communicate()
        self.process = None
        self.errors.seek(0)
        words = self.errors.read().decode(errors="replace")
        self.errors.seek(0)
        self.errors.truncate()
        return words


def environment() -> dict[str, str]:
    """For programs under sanitizers: fibers that never end are no leak."""
    return {**os.environ, "ASAN_OPTIONS": "detect_leaks=0", "UBSAN_OPTIONS": "print_stacktrace=1"}


def _bytes_of(tensor: Tensor) -> bytes:
    return tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b""


def _link(kernels: list[Path], includes: tuple[Path, ...], cache: Path) -> Path:
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        futures = [pool.submit(_compile, EMULATOR / name, PLAIN, (EMULATOR,), cache) for name in CORE]
        futures += [pool.submit(_compile, path, SANITIZED, includes, cache) for path in kernels]
        objects = [future.result() for future in futures]
    command = ["-fsanitize=address,undefined", *HOOKS, *map(str, objects)]
    return _make(cache, "program", command, " ".join(command).encode())


def _compile(source: Path, flags: tuple[str, ...], includes: tuple[Path, ...], cache: Path) -> Path:
    options = [*COMMON, *flags, "-x", "c++", "-c"]
    headers = [path for folder in includes for path in sorted(folder.glob("*.*h"))]
    contents = b"".join(path.read_bytes() for path in (source, *headers))
    command = [*options, *(f"-I{folder}" for folder in includes), str(source)]
    return _make(cache, f"{source.stem}.o", command, " ".join((_version(), *options)).encode() + contents)


@cache
def _version() -> str:
    return subprocess.run([compiler(), "--version"], capture_output=True, text=True, check=True).stdout


def _make(cache: Path, name: str, command: list[str], known: bytes) -> Path:
    """What the compiler makes of a command, unless the same was made before."""
    target = cache / f"{hashlib.sha256(known).hexdigest()[:16]}-{name}"
    if target.exists():
        return target
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        made = Path(folder) / name
        result = subprocess.run(
            [compiler(), *command, "-o", str(made)], capture_output=True, text=True, check=False
        )
        assert result.returncode == 0, result.stderr
        made.replace(target)  # at once, whoever else builds it
    return target
