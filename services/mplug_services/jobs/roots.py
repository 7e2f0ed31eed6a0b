"""Folders whose content jobs may name; whatever else a request names is refused."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from mplug_services.errors import ServiceError, not_found, permission_denied

_PATTERN_SIGNS = set("*?[]{}")
"""Readers of training data take these for patterns, which could lead elsewhere than what was looked at here."""


class JobRoots:
    """The configured folders, by name.

    Args:
        folders: as they are configured.

    Raises:
        ValueError: one is no folder.
    """

    def __init__(self, folders: Mapping[str, Path]) -> None:
        self._folders = {name: path.resolve() for name, path in folders.items()}
        for name, folder in self._folders.items():
            if not folder.is_dir():
                raise ValueError(f"job root {name} is no folder: {folder}")

    def resolve(self, name: str, field: str) -> Path:
        """Where a name leads, all symbolic links followed; always into its root.

        Args:
            name: the root's name, then the path in it.
            field: path of the field that holds the name.

        Raises:
            ServiceError: PERMISSION_DENIED where it leads out of every root, NOT_FOUND where to nothing.
        """
        root, _, path = name.partition("/")
        folder = self._folders.get(root)
        if folder is None or "\0" in name or ".." in Path(path).parts or Path(path).is_absolute():
            known = ", ".join(self._folders) or "none"
            raise _denied(field, f"{name[:200]!r} is no NAME/PATH under a job root; there are: {known}")
        if _PATTERN_SIGNS & set(path):
            raise _denied(field, f"{name[:200]!r} has signs of a pattern; name one file or folder")
        try:
            found = (folder / path).resolve(strict=True)
        except (FileNotFoundError, NotADirectoryError):
            raise not_found("DATA_NOT_FOUND", f"{field}: there is no {name[:200]!r}") from None
        except (
            OSError,
            RuntimeError,
            ValueError,
        ):  # a loop of links, no permission, a name too long, not UTF-8
            raise _denied(field, f"{name[:200]!r} cannot be reached") from None
        if not found.is_relative_to(folder):
            raise _denied(field, f"{name[:200]!r} lies outside of its job root")
        return found

    def names(self) -> list[tuple[str, str]]:
        """Paths, and what clients call them; the longest first."""
        pairs = [(str(folder), name) for name, folder in self._folders.items()]
        return sorted(pairs, key=lambda pair: -len(pair[0]))


def _denied(field: str, message: str) -> ServiceError:
    return permission_denied(field, message, reason="DATA_ACCESS_DENIED")
