"""HDF5 files that stay open from slice to slice, in each process its own."""

from __future__ import annotations

import os
from collections import OrderedDict
from pathlib import Path
from types import EllipsisType
from typing import Any

import numpy as np

from invertible.data.mri.volume_file import open_file
from invertible.data.reading import reading
from invertible.errors import require

# Far below the number of files that systems let a process open, 256 or 1024.
LIMIT = 64


class OpenFiles:
    """Reads from files that it keeps open, the least recently used of which it closes when there are many.

    A process that was forked, as a worker of a `DataLoader` is, opens files of its own: two processes that share an
    open HDF5 file share its position, and read each other's slices. Copies made by pickling begin empty.
    """

    def __init__(self) -> None:
        self._files: OrderedDict[Path, Any] = OrderedDict()
        self._process = os.getpid()

    def read(self, path: Path, name: str, which: int | EllipsisType) -> np.ndarray:
        """One slice of a data set, or all of it with `...`; a data set of one slice serves all of a volume.

        Raises:
            DataError: naming file and slice, if it cannot be read.
        """
        part = name if which is ... else f"{name} in slice {which}"
        with reading(path, f"an HDF5 file with {part}", "Leave the file out or get it again."):
            found = self._open(path)[name]
            return np.asarray(found[0 if which is not ... and len(found) == 1 else which])

    def close(self) -> None:
        """Close all files."""
        while self._files:
            self._files.popitem()[1].close()

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__()

    def _open(self, path: Path) -> Any:  # noqa: ANN401
        if self._process != os.getpid():
            self._files, self._process = OrderedDict(), os.getpid()
        if path in self._files:
            self._files.move_to_end(path)
            return self._files[path]
        if len(self._files) >= LIMIT:
            self._files.popitem(last=False)[1].close()
        self._files[path] = open_file(require("h5py", "mri"), path)
        return self._files[path]
