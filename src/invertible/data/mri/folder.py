"""A folder of volumes: headers of all files, kept from one run to the next, and the names of those that are damaged."""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Iterator
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, Literal

from invertible.data import places
from invertible.data.mri.volume_file import VolumeHeader, read_header
from invertible.data.reading import reading
from invertible.errors import ConfigError, DataError

SUFFIXES = (".h5", ".hdf5")
# Raise when a header's fields or their meaning change, so that indices of older versions are not read.
VERSION = 1
SHOWN = 10


class VolumeFolder:
    """The volumes of a folder, by their headers; slices are read when they are asked for.

    The headers are kept in the user's folder for caches, and read again only of files whose size or time has changed:
    a thousand volumes on a disk in the network take minutes otherwise, each time.

    Args:
        path: a folder of files that end in `.h5` or `.hdf5`, or one such file.
        on_error: what to do about files that are damaged or not what they should be: `"skip"` leaves them out and
            warns once with their names, `"raise"` refuses the folder.
        cache: keep the headers from one run to the next.

    Attributes:
        headers: of the volumes that can be read, in order of their names.
        problems: why each of the others was left out, by name.

    Raises:
        DataError: if there is no such folder, it holds no volume that can be read, or `on_error` is `"raise"` and a
            file is damaged.
        MissingDependencyError: if h5py is not installed.

    Example:
        >>> folder = VolumeFolder("singlecoil_val")     # doctest: +SKIP
        >>> folder.headers[0].shape                     # doctest: +SKIP
        (640, 372)
    """

    def __init__(
        self, path: str | os.PathLike[str], on_error: Literal["skip", "raise"] = "skip", *, cache: bool = True
    ) -> None:
        if on_error not in ("skip", "raise"):
            raise ConfigError(f"VolumeFolder: expected on_error to be 'skip' or 'raise', got {on_error!r}.")
        self.path = Path(path)
        index = _Index(self.path, cache=cache)
        headers: list[VolumeHeader] = []
        self.problems: dict[str, str] = {}
        for file in _files(self.path):
            try:
                headers.append(index.header(file))
            except DataError as error:
                if on_error == "raise":
                    raise
                self.problems[file.name] = str(error)
        index.save()
        self.headers = tuple(headers)
        self._tell_problems()

    def __len__(self) -> int:
        return len(self.headers)

    def __iter__(self) -> Iterator[VolumeHeader]:
        return iter(self.headers)

    def __repr__(self) -> str:
        left_out = f", {len(self.problems)} files left out" if self.problems else ""
        return f"VolumeFolder({str(self.path)!r}: {len(self)} volumes{left_out})"

    def _tell_problems(self) -> None:
        if not self.problems:
            return
        reasons = list(self.problems.values())
        rest = f" ... and {len(reasons) - SHOWN} more" if len(reasons) > SHOWN else ""
        listed = f"{' '.join(reasons[:SHOWN])}{rest}"
        if not self.headers:
            raise DataError(f"{self.path}: expected volumes in HDF5, got none that can be read. {listed}")
        warnings.warn(f"{self.path}: left out {len(reasons)} files. {listed}", UserWarning, stacklevel=3)


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise DataError(f"{path}: expected a folder of volumes or a file of one, found nothing there. Check its name.")
    with reading(path, "a folder that can be listed", "Check its permissions."):
        files = sorted(each for each in path.iterdir() if each.suffix in SUFFIXES and not each.name.startswith("."))
    if not files:
        parts = sorted(each.name for each in path.iterdir() if each.is_dir() and not each.name.startswith("."))
        inside = f" It holds the folders {', '.join(parts)}; name one of them." if parts else ""
        raise DataError(f"{path}: expected files that end in {' or '.join(SUFFIXES)}, got none.{inside}")
    return files


class _Index:
    """Headers as JSON in the cache, by name, size and time of the file."""

    def __init__(self, path: Path, *, cache: bool) -> None:
        digest = hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:32]
        self._path = places.cache_dir() / "mri" / f"{digest}.json" if cache else None
        self._known: dict[str, Any] = self._load()
        self._found: dict[str, Any] = {}

    def header(self, file: Path) -> VolumeHeader:
        """The header of a file, read if it is not known.

        Raises:
            DataError: if it is damaged, which is never kept.
        """
        with reading(file, "a file that can be read"):
            status = file.stat()
        stamp = [status.st_size, status.st_mtime_ns]
        known = self._known.get(file.name)
        if known and known["stamp"] == stamp:
            header = VolumeHeader(path=file, **{name: _tupled(value) for name, value in known["header"].items()})
        else:
            header = read_header(file)
        described = {name: value for name, value in asdict(header).items() if name != "path"}
        self._found[file.name] = {"stamp": stamp, "header": described}
        return header

    def save(self) -> None:
        """Write what was found, if it is not what was known; a cache that cannot be written is done without."""
        if self._path is None or self._found == self._known:
            return
        temporary = self._path.with_name(f".{self._path.name}.{os.getpid()}.tmp")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_text(json.dumps({"version": VERSION, "files": self._found}), encoding="utf-8")
            os.replace(temporary, self._path)
        except OSError:
            return
        finally:
            temporary.unlink(missing_ok=True)

    def _load(self) -> dict[str, Any]:
        try:
            found = json.loads(self._path.read_text(encoding="utf-8")) if self._path else {}
            files = found["files"] if found.get("version") == VERSION else {}
            wanted = {each.name for each in fields(VolumeHeader)} - {"path"}
            return {name: each for name, each in files.items() if set(each["header"]) == wanted}
        # Whatever stands there, a damaged index is only an index that is made again.
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return {}


def _tupled(value: Any) -> Any:  # noqa: ANN401
    return tuple(value) if isinstance(value, list) else value
