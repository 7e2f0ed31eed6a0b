"""Names under job roots."""

from __future__ import annotations

from pathlib import Path

import grpc
import pytest

from mplug_services.config import ConfigurationError, ServeConfig, load_config
from mplug_services.errors import ServiceError
from mplug_services.jobs.roots import JobRoots

Code = grpc.StatusCode


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "photos"
    (root / "2024").mkdir(parents=True)
    (root / "2024" / "rows.jsonl").write_text("{}")
    (root / "2024" / "[a].jsonl").write_text("{}")
    (tmp_path / "secret.jsonl").write_text("{}")
    (root / "out").symlink_to(tmp_path)
    (root / "loop").symlink_to(root / "loop")
    (root / "in").symlink_to(root / "2024")
    return root


@pytest.mark.parametrize("name", ["photos/2024/rows.jsonl", "photos/2024", "photos", "photos/in/rows.jsonl"])
def test_what_lies_under_a_root_is_found(folder: Path, name: str) -> None:
    found = JobRoots({"photos": folder}).resolve(name, "data")
    assert found == (folder.parent / name).resolve()


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("", Code.PERMISSION_DENIED),
        ("/etc/passwd", Code.PERMISSION_DENIED),
        ("photos//etc/passwd", Code.PERMISSION_DENIED),
        ("photos/../secret.jsonl", Code.PERMISSION_DENIED),
        ("photos/2024/../../secret.jsonl", Code.PERMISSION_DENIED),
        ("photos/out/secret.jsonl", Code.PERMISSION_DENIED),
        ("photos/loop", Code.PERMISSION_DENIED),
        ("photos/2024/rows\0.jsonl", Code.PERMISSION_DENIED),
        ("photos/2024/*.jsonl", Code.PERMISSION_DENIED),
        ("photos/2024/[a].jsonl", Code.PERMISSION_DENIED),
        ("photos/{2024,..}/secret.jsonl", Code.PERMISSION_DENIED),
        ("other/rows.jsonl", Code.PERMISSION_DENIED),
        ("photos/" + "x" * 5000, Code.PERMISSION_DENIED),
        ("photos/gone.jsonl", Code.NOT_FOUND),
        ("photos/2024/rows.jsonl/more", Code.NOT_FOUND),
    ],
)
def test_everything_else_is_refused_and_no_path_is_told(folder: Path, name: str, code: Code) -> None:
    with pytest.raises(ServiceError) as refused:
        JobRoots({"photos": folder}).resolve(name, "data")
    failure = refused.value.failure
    assert failure.code is code
    assert failure.message.startswith("data: ")
    assert str(folder) not in failure.message


def test_without_roots_nothing_is_found() -> None:
    with pytest.raises(ServiceError, match="there are: none"):
        JobRoots({}).resolve("photos/rows.jsonl", "data")


def test_a_root_must_be_a_folder(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="job root photos is no folder"):
        JobRoots({"photos": tmp_path / "gone"})


def test_roots_are_configured_by_name() -> None:
    config = load_config({"job_roots": "photos=/srv/photos, scans=/srv/scans=2"}, environment={})
    assert config.job_folders == {"photos": Path("/srv/photos"), "scans": Path("/srv/scans=2")}
    assert ServeConfig().job_folders == {}


@pytest.mark.parametrize("roots", [("/srv/photos",), ("=/srv",), ("a/b=/srv",), ("a=/x", "a=/y")])
def test_roots_that_cannot_be_are_refused(roots: tuple[str, ...]) -> None:
    with pytest.raises(ConfigurationError, match="job_roots"):
        ServeConfig(job_roots=roots)
