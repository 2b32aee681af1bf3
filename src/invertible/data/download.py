"""Downloads of files that are checked before they get their name."""

import os
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from invertible.data.places import Published, Where
from invertible.data.reading import GET_AGAIN
from invertible.errors import DataError, require

SECONDS = 30  # without a byte, after which a mirror is given up


def download(published: Published, file: str, target: Path, where: Where, check: Callable[[Path], object]) -> Path:
    """Download one file from the first mirror that has it whole.

    The file is written under a temporary name beside its place and renamed when it passes the check, so that neither
    an interrupted download nor another process ever leaves half a file.

    Args:
        published: the set it belongs to.
        file: its name on the mirrors.
        target: its place on this machine.
        where: may name another mirror.
        check: raises a `DataError` if a file is not what it should be.

    Raises:
        DataError: naming every URL that was tried with its reason, and how to get the file by hand.
        MissingDependencyError: if `pooch` or `tqdm` is not installed.
    """
    pooch, tqdm = require("pooch", "data"), require("tqdm", "data")
    mirrors = (where.mirror,) if where.mirror else published.mirrors
    tried = []
    for mirror in mirrors:
        url = f"{mirror.rstrip('/')}/{file}"
        part = _temporary(target)
        try:
            # disable=None: no bar where nobody watches. total=1: a bar of total 0 is false, and pooch asks.
            with tqdm.tqdm(total=1, unit="B", unit_scale=True, desc=file, disable=None) as bar:
                pooch.HTTPDownloader(progressbar=bar, chunk_size=2**16, timeout=SECONDS)(url, str(part), None)
            check(part)
            os.replace(part, target)
            return target
        except (OSError, ValueError) as error:
            tried.append(f"{url} ({_reason(error, part)})")
        finally:
            part.unlink(missing_ok=True)
    raise DataError(
        f"{published.name}: expected to download {file}, got nothing from {', '.join(tried)}. {published.by_hand()}"
    )


def _temporary(target: Path) -> Path:
    """An empty file beside the target, on the same disk, so that it can be renamed."""
    part = target.with_name(f"{target.name}.{uuid.uuid4().hex}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        part.touch()
    except OSError as error:
        raise DataError(
            f"{target.parent}: expected a folder to write downloads to, got {type(error).__name__} ({error.strerror}). "
            "Make it writable, or choose another by the environment variable XDG_CACHE_HOME."
        ) from error
    return part


def _reason(error: Any, part: Path) -> str:  # noqa: ANN401
    requests = require("requests", "data")
    if isinstance(error, requests.HTTPError):
        return f"status {error.response.status_code}"
    if isinstance(error, requests.Timeout):
        return f"no answer within {SECONDS} s"
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return "connection broken off"
    if isinstance(error, requests.ConnectionError):
        return "no connection"
    text = str(error).replace(f"{part}: ", "").replace(GET_AGAIN, "")
    return " ".join(text.split()).rstrip(".")
