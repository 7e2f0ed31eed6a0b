"""Building the compiled kernels: what the cache keeps, what failures say, how ptxas is read. A script is the nvcc."""

from __future__ import annotations

from pathlib import Path

import pytest

from mplug_kernels import build

PTXAS = """\
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function '_ZN5xattn12merge_kernelI6__halfEEvNS_11MergeParamsE' for 'sm_90'
ptxas info    : Function properties for _ZN5xattn12merge_kernelI6__halfEEvNS_11MergeParamsE
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 22 registers, used 0 barriers
ptxas info    : Compiling entry function '_ZN5xattn12merge_kernelI6__halfEEvNS_11MergeParamsE' for 'sm_80'
ptxas info    : Function properties for _ZN5xattn12merge_kernelI6__halfEEvNS_11MergeParamsE
    72 bytes stack frame, 68 bytes spill stores, 136 bytes spill loads
ptxas info    : Used 128 registers, used 1 barriers, 416 bytes cmem[0]
"""

# Says what ptxas would say and writes its input where -o asks; counts its calls beside itself.
SCRIPT = """\
#!/bin/sh
[ "$1" = --version ] && { echo 13.0; exit; }
echo x >> "$0.calls"
while [ $# -gt 0 ]; do
  case "$1" in
    -o) out=$2; shift;;
    *.cu) in=$1;;
  esac
  shift
done
grep -q broken "$in" && { echo "$in: error: broken" >&2; exit 1; }
cp "$in" "$out"
echo "ptxas info" >&2
"""


@pytest.fixture
def compiler(tmp_path: Path) -> build.Compiler:
    script = tmp_path / "nvcc"
    script.write_text(SCRIPT)
    script.chmod(0o755)
    (tmp_path / "csrc").mkdir()
    return build.Compiler(script, tmp_path / "cache")


def _source(tmp_path: Path, text: str = "kernel") -> Path:
    path = tmp_path / "csrc" / "instances.cu"
    path.write_text(text)
    return path


def _calls(tmp_path: Path) -> int:
    return len((tmp_path / "nvcc.calls").read_text().splitlines())


def test_an_object_is_compiled_once(compiler: build.Compiler, tmp_path: Path) -> None:
    source = _source(tmp_path)
    first, again = compiler.compile(source), compiler.compile(source)
    assert first == again
    assert first[0].read_text() == "kernel"
    assert "ptxas info" in first[1]
    assert _calls(tmp_path) == 1


def test_a_header_that_changed_compiles_again(compiler: build.Compiler, tmp_path: Path) -> None:
    source, header = _source(tmp_path), tmp_path / "csrc" / "tiles.cuh"
    header.write_text("one")
    first, _ = compiler.compile(source)
    header.write_text("two")
    second, _ = compiler.compile(source)
    assert first != second
    assert _calls(tmp_path) == 2


def test_architectures_have_objects_of_their_own(compiler: build.Compiler, tmp_path: Path) -> None:
    source = _source(tmp_path)
    other = build.Compiler(compiler.nvcc, compiler.cache, (90,))
    assert compiler.compile(source)[0] != other.compile(source)[0]


def test_a_failure_says_what_the_compiler_said_and_leaves_nothing(
    compiler: build.Compiler, tmp_path: Path
) -> None:
    with pytest.raises(build.BuildError, match="error: broken"):
        compiler.compile(_source(tmp_path, "broken"))
    assert list(compiler.cache.iterdir()) == []


def test_no_compiler_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("NVCC", "CUDA_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(build, "DEFAULT_NVCC", tmp_path / "nowhere")
    with pytest.raises(build.BuildError, match="NVCC"):
        build.find_nvcc()


def test_the_hash_is_of_names_and_contents(tmp_path: Path) -> None:
    (tmp_path / "a.cuh").write_text("x")
    first = build.source_hash(tmp_path)
    (tmp_path / "a.cuh").touch()
    assert build.source_hash(tmp_path) == first
    (tmp_path / "a.cuh").rename(tmp_path / "b.cuh")
    renamed = build.source_hash(tmp_path)
    (tmp_path / "b.cuh").write_text("y")
    assert len({first, renamed, build.source_hash(tmp_path)}) == 3


def test_usage_is_read_by_kernel_and_architecture() -> None:
    older, newer = build.parse_usage(PTXAS)
    assert (older.architecture, newer.architecture) == (80, 90)
    assert (older.registers, older.stack, older.spill_stores, older.spill_loads) == (128, 72, 68, 136)
    assert (newer.registers, newer.spill_stores) == (22, 0)
    assert "merge_kernel" in older.kernel
