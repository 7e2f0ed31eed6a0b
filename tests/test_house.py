"""The house's own rules: imports run one way, generated code is current, what ships is whole."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BIN = Path(sys.executable).parent
GENERATED = ("*_pb2.py", "*_pb2.pyi", "*_pb2_grpc.py", "*_pb2_grpc.pyi")
PACKAGES = (
    "mplug/mplug",
    "index/mplug_index",
    "services/mplug_services",
    "kernels/mplug_kernels",
    "proto/mplug_api",
)


def tool(name: str) -> str:
    path = shutil.which(name, path=str(BIN)) or shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not installed; the extra [dev] has it")
    return path


def copy_packages(target: Path) -> dict[str, str]:
    for package in PACKAGES:
        ignore = shutil.ignore_patterns("weights", "__pycache__")
        shutil.copytree(ROOT / package, target / package, ignore=ignore)
    shutil.copy(ROOT / "pyproject.toml", target)
    return {"PYTHONPATH": ":".join(str((target / package).parent) for package in PACKAGES), "PATH": str(BIN)}


def lint_imports(target: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = [tool("lint-imports"), "--no-cache"]
    return subprocess.run(command, cwd=target, env=environment, capture_output=True, text=True, check=False)


def test_imports_run_one_way(tmp_path: Path) -> None:
    result = lint_imports(tmp_path, copy_packages(tmp_path))
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize(
    ("package", "statement"),
    [
        ("index/mplug_index", "import torch"),
        ("index/mplug_index", "import mplug_services"),
        ("mplug/mplug", "from mplug_api.v1 import common_pb2"),
        ("kernels/mplug_kernels", "import mplug"),
    ],
)
def test_a_planted_violation_is_found(tmp_path: Path, package: str, statement: str) -> None:
    environment = copy_packages(tmp_path)
    (tmp_path / package / "planted.py").write_text(f'"""Planted."""\n\n{statement}\n')
    result = lint_imports(tmp_path, environment)
    assert result.returncode == 1, result.stdout
    assert "planted" in result.stdout


def test_generated_code_is_what_the_protos_say(tmp_path: Path) -> None:
    protos = sorted((ROOT / "proto" / "mplug_api" / "v1").glob("*.proto"))
    out = [f"--{kind}_out={tmp_path}" for kind in ("python", "grpc_python", "mypy", "mypy_grpc")]
    plugins = [f"--plugin={tool(p)}" for p in ("protoc-gen-mypy", "protoc-gen-mypy_grpc")]
    command = [
        sys.executable,
        "-m",
        "grpc_tools.protoc",
        f"-I{ROOT / 'proto'}",
        *out,
        *plugins,
        *map(str, protos),
    ]
    subprocess.run(command, check=True, capture_output=True)
    made = {p.name: p.read_text() for pattern in GENERATED for p in tmp_path.rglob(pattern)}
    committed = {
        p.name: p.read_text() for pattern in GENERATED for p in (ROOT / "proto" / "mplug_api").rglob(pattern)
    }
    assert made.keys() == committed.keys()
    assert [name for name in made if made[name] != committed[name]] == [], "run `make proto` and commit"


def test_the_protos_are_lint_clean() -> None:
    result = subprocess.run(
        [tool("buf"), "lint"], cwd=ROOT / "proto", capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr


def test_every_package_says_it_is_typed() -> None:
    assert [p for p in PACKAGES if not (ROOT / p / "py.typed").exists()] == []


def test_what_is_tracked_stays_under_56_mib() -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    sizes = [
        (ROOT / name).stat().st_size for name in listed.stdout.split("\0") if name and (ROOT / name).exists()
    ]
    assert sum(sizes) < 56 * 2**20
