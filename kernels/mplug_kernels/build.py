"""Compiling kernels/csrc into one shared library with nvcc: `make kernels`, or `python -m mplug_kernels.build`.

Objects are kept in a cache by a hash of what they are made of (headers, their source, nvcc, flags), with what ptxas
said of them. A file appears there complete or not at all, so builds may run side by side.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from mplug_kernels import library

SOURCES = Path(__file__).resolve().parents[1] / "csrc"
"""The kernels' folder, in a checkout."""
CACHE = Path(__file__).resolve().parents[2] / "build" / "kernels"
"""Where objects are kept."""
LIBRARY = Path(__file__).resolve().parent / "libmplug_kernels.so"
"""Where the library goes; `library.find` looks there."""
ARCHITECTURES = (80, 90, 100)
"""Compute capabilities, times ten, that code is made for; newer ones run what the last is translated to."""
DEFAULT_NVCC = Path("/usr/local/cuda/bin/nvcc")
"""Where CUDA's own installer puts the compiler."""
TORCH_TARGET = "0x020b000000000000"
"""The oldest torch (2.11) whose stable ABI the library keeps to."""

_FLAGS = ("-std=c++17", "-O3", "--threads=1", "-Xptxas=-v", "-Xcompiler=-fPIC,-fvisibility=hidden")
# A torch without CUDA is enough to link against: nothing of libtorch_cuda is named. It is not loaded for all to see,
# so the library must ask for it; cudart is inside, so that any driver will do.
_LINK_FLAGS = ("-shared", "--cudart=static", "-Xlinker=--no-as-needed", "-ltorch", "-ltorch_cpu")


class BuildError(RuntimeError):
    """No nvcc, or what it said."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What ptxas says of one kernel on one architecture; bytes but for `registers`."""

    kernel: str
    """Its name, demangled where c++filt is there."""
    architecture: int
    """80 for sm_80."""
    registers: int
    stack: int
    spill_stores: int
    spill_loads: int


def source_hash(folder: Path = SOURCES) -> str:
    """sha256 over name and content of every file of a folder, in name order: what results are measured with."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.iterdir() if path.is_file()):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def find_nvcc() -> Path:
    """The compiler: $NVCC, that of $CUDA_HOME, of the PATH, or `DEFAULT_NVCC`.

    Raises:
        BuildError: there is none.
    """
    home = os.environ.get("CUDA_HOME")
    candidates = (
        os.environ.get("NVCC"),
        home and str(Path(home, "bin", "nvcc")),
        shutil.which("nvcc"),
        str(DEFAULT_NVCC),
    )
    for candidate in candidates:
        if candidate and Path(candidate).is_file():
            return Path(candidate)
    raise BuildError("no nvcc; put CUDA 13's on the PATH or name it with NVCC (plain torch runs without it)")


@dataclass(frozen=True, slots=True)
class Compiler:
    """One nvcc, and what it compiles for."""

    nvcc: Path
    cache: Path = CACHE
    architectures: tuple[int, ...] = ARCHITECTURES

    def compile(self, source: Path) -> tuple[Path, str]:
        """The object of a source, from the cache where it is there, and what ptxas said of it."""
        command = [*self._command(source), "-c", str(source)]
        target = self.cache / f"{source.stem}-{self._key(source, command)}.o"
        log = target.with_suffix(".log")
        if target.exists() and log.exists():
            return target, log.read_text()
        said = self._run(command, target)
        _write_whole(log, said)
        return target, said

    def link(self, objects: Sequence[Path], target: Path) -> None:
        """The library of some objects."""
        torch_libraries = Path(torch.__file__).parent / "lib"
        flags = [*_LINK_FLAGS, f"-L{torch_libraries}"]
        self._run([str(self.nvcc), *map(str, objects), *flags], target)

    def _command(self, source: Path) -> list[str]:
        if source.suffix == ".cpp":
            include = Path(torch.__file__).parent / "include"
            extra = [f"-DTORCH_TARGET_VERSION={TORCH_TARGET}", "-DUSE_CUDA", f"-I{include}"]
        else:
            codes = [f"-gencode=arch=compute_{a},code=sm_{a}" for a in self.architectures]
            last = self.architectures[-1]
            extra = [*codes, f"-gencode=arch=compute_{last},code=compute_{last}"]
        # Messages name a file of this folder, wherever that is.
        relative = f"-Xcompiler=-ffile-prefix-map={source.parent}/="
        return [str(self.nvcc), *_FLAGS, relative, *extra]

    def _key(self, source: Path, command: Sequence[str]) -> str:
        version = subprocess.run([self.nvcc, "--version"], capture_output=True, check=True).stdout
        digest = hashlib.sha256(version + torch.__version__.encode() + "\0".join(command).encode())
        headers = (path for path in source.parent.iterdir() if path.suffix in {".h", ".cuh"})
        for path in [source, *sorted(headers)]:
            digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
        return digest.hexdigest()[:16]

    def _run(self, command: list[str], target: Path) -> str:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as folder:
            made = Path(folder, target.name)
            done = subprocess.run([*command, "-o", str(made)], capture_output=True, text=True)
            said = done.stdout + done.stderr
            if done.returncode:
                raise BuildError(f"{' '.join(command)}\n{said}")
            made.replace(target)
        return said


def build(
    target: Path = LIBRARY,
    *,
    cache: Path = CACHE,
    architectures: tuple[int, ...] = ARCHITECTURES,
    jobs: int | None = None,
) -> list[Usage]:
    """Compile what has changed and link it.

    Args:
        target: the library.
        cache: where objects are kept.
        architectures: compute capabilities, times ten.
        jobs: compilers at once; None = one for each processor.

    Returns:
        What every kernel uses on every architecture, by name.

    Raises:
        BuildError: no nvcc, or what it said.
    """
    compiler = Compiler(find_nvcc(), cache, architectures)
    sources = sorted(path for path in SOURCES.iterdir() if path.suffix in {".cu", ".cpp"})
    with concurrent.futures.ThreadPoolExecutor(jobs or os.cpu_count()) as pool:
        compiled = list(pool.map(compiler.compile, sources))
    compiler.link([path for path, _ in compiled], target)
    library.mark(target, source_hash())
    return parse_usage("".join(said for _, said in compiled))


_ENTRY = re.compile(r"Compiling entry function '(\w+)' for 'sm_(\d+)'")
_SPILL = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
_REGISTERS = re.compile(r"Used (\d+) registers")


def parse_usage(said: str) -> list[Usage]:
    """What `ptxas -v` says of every kernel, ordered by kernel and architecture."""
    found: list[Usage] = []
    for part in re.split(r"(?=ptxas info\s+: Compiling entry function)", said):
        entry, spill, registers = _ENTRY.search(part), _SPILL.search(part), _REGISTERS.search(part)
        if entry and spill and registers:
            stack, stores, loads = map(int, spill.groups())
            found.append(Usage(entry[1], int(entry[2]), int(registers[1]), stack, stores, loads))
    names = _demangle([usage.kernel for usage in found])
    named = [
        Usage(name, u.architecture, u.registers, u.stack, u.spill_stores, u.spill_loads)
        for name, u in zip(names, found, strict=True)
    ]
    return sorted(named, key=lambda usage: (usage.kernel, usage.architecture))


def _demangle(names: list[str]) -> list[str]:
    if shutil.which("c++filt") is None or not names:
        return names
    done = subprocess.run(["c++filt"], input="\n".join(names), capture_output=True, text=True, check=True)
    # "void xattn::kernel<T, N>(xattn::Params)" -> "kernel<T, N>"
    return [
        re.sub(r"^void |xattn::|\([A-Z]\w*\)$", "", name).replace("(int)", "")
        for name in done.stdout.split("\n")
    ]


def _write_whole(path: Path, text: str) -> None:
    with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as file:
        file.write(text)
    Path(file.name).replace(path)


def main(arguments: Sequence[str] | None = None) -> int:
    """Build, and print what every kernel uses."""
    parser = argparse.ArgumentParser(prog="python -m mplug_kernels.build", description=__doc__)
    parser.add_argument("--output", type=Path, default=LIBRARY, help="the library")
    parser.add_argument("--cache", type=Path, default=CACHE, help="where objects are kept")
    parser.add_argument("--arch", type=int, nargs="+", default=ARCHITECTURES, help="80 = sm_80")
    parser.add_argument("--jobs", type=int, help="compilers at once; every processor's by default")
    options = parser.parse_args(arguments)
    try:
        usages = build(
            options.output, cache=options.cache, architectures=tuple(options.arch), jobs=options.jobs
        )
    except BuildError as error:
        print(error, file=sys.stderr)
        return 1
    for usage in usages:
        spills = f"{usage.spill_stores + usage.spill_loads} bytes spilled"
        print(f"sm_{usage.architecture:<4} {usage.registers:4} registers  {spills:16}  {usage.kernel}")
    print(f"{options.output}  {source_hash()}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
