"""What a wheel holds."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
WITHOUT = shutil.ignore_patterns(
    ".git", ".venv*", "build", "__pycache__", "*_cache", "runs", "demo-out", "tests"
)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of the project without its tests."""
    target = tmp_path / "checkout"
    shutil.copytree(ROOT, target, ignore=WITHOUT)
    for path in (target / "kernels" / "mplug_kernels").glob("libmplug_kernels.*"):
        path.unlink()
    return target


def make_wheel(checkout: Path) -> Path:
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(checkout / "dist")]
    subprocess.run(command, cwd=checkout, check=True, capture_output=True)
    (wheel,) = (checkout / "dist").iterdir()
    return wheel


@pytest.mark.long
def test_a_wheel_carries_results_weights_and_protos(checkout: Path) -> None:
    wheel = make_wheel(checkout)
    assert wheel.name.endswith("-py3-none-any.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    results = {path.name for path in (ROOT / "kernels" / "bench" / "results").glob("*.json")}
    assert {f"mplug_kernels/measured/{name}" for name in results} <= names
    assert {"mplug/weights/mplug-mini/model.safetensors", "mplug_api/v1/common.proto"} <= names
    assert not [name for name in names if name.startswith(("tests/", "csrc/", "bench/"))]


@pytest.mark.long
def test_a_compiled_library_makes_the_wheel_one_platforms(checkout: Path) -> None:
    library = checkout / "kernels" / "mplug_kernels" / "libmplug_kernels.so"
    library.write_bytes(b"code")
    library.with_suffix(".sha256").write_text("hash\n")
    wheel = make_wheel(checkout)
    assert not wheel.name.endswith("-any.whl")
    content = zipfile.ZipFile(wheel)
    assert content.read("mplug_kernels/libmplug_kernels.so") == b"code"
    assert content.read("mplug_kernels/libmplug_kernels.sha256") == b"hash\n"
