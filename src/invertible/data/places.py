"""Where published data sets are looked for on this machine."""

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from invertible.errors import DataError

VARIABLE = "INVERTIBLE_DATA_DIR"
T = TypeVar("T")


@dataclass(frozen=True)
class Published:
    """A data set as its authors publish it.

    Attributes:
        name: its name here, which is also that of its folder.
        files: each file's name and MD5, of the uncompressed content where it is compressed by itself.
        mirrors: URLs of folders that hold the files, the first to be tried first.
        source: citation and licence.
        folders: other folders in which it is looked for, as other libraries name them.
        system: folders in which packages of operating systems put it.
        remark: what else to know about getting it by hand.
    """

    name: str
    files: dict[str, str]
    mirrors: tuple[str, ...]
    source: str
    folders: tuple[str, ...] = ()
    system: tuple[str, ...] = ()
    remark: str = ""

    def by_hand(self) -> str:
        """What to do if the files can neither be found nor downloaded."""
        return (
            f"Put {', '.join(self.files)} into {cache_dir() / self.name}, or name their folder by data_dir or the "
            f"environment variable {VARIABLE}. {self.remark}".rstrip()
        )


@dataclass(frozen=True)
class Where:
    """Where to get a published data set from.

    Attributes:
        data_dir: folder to look in first.
        download: download what is not found.
        mirror: URL of a folder to download from, instead of those that are known.
    """

    data_dir: Path | None = None
    download: bool = True
    mirror: str | None = None

    def __post_init__(self) -> None:
        if self.data_dir is not None and not os.path.isdir(self.data_dir):
            raise DataError(f"data_dir: expected a folder, got {str(self.data_dir)!r}, which is none. Check its name.")


def cache_dir() -> Path:
    """The folder for downloads: `invertible` in the user's folder for caches."""
    home = Path.home()
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = home / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache")
    return base / "invertible"


def places(published: Published, data_dir: Path | None) -> list[Path]:
    """Folders to look in: under `data_dir`, under the environment variable's, in the cache, in the system's."""
    bases = [data_dir] if data_dir else []
    if os.environ.get(VARIABLE):
        bases.append(Path(os.environ[VARIABLE]).expanduser())
    below = [base / folder if folder else base for base in bases for folder in (published.name, *published.folders, "")]
    found = [*below, cache_dir() / published.name, *map(Path, published.system)]
    return list(dict.fromkeys(found))


def locate(
    published: Published, where: Where, present: Callable[[Path], T | None], fetch: Callable[[Path], object]
) -> T:
    """Find a data set on this machine, or download it into the cache.

    Args:
        published: what to find.
        where: where to look.
        present: gives the set's files if a folder holds all of them.
        fetch: downloads into a folder what `present` misses there.

    Raises:
        DataError: if it is not there and may not or cannot be downloaded.
    """
    looked_in = places(published, where.data_dir)
    for place in looked_in:
        found = present(place)
        if found is not None:
            return found
    if not where.download:
        raise DataError(
            f"{published.name}: expected its files in one of {', '.join(map(str, looked_in))}, got none that has "
            f"them all, and download=False. {published.by_hand()}"
        )
    target = cache_dir() / published.name
    fetch(target)
    found = present(target)
    if found is None:
        raise DataError(
            f"{published.name}: expected the downloaded files in {target}, got {os.listdir(target)}. Is another "
            "process deleting them?"
        )
    return found
