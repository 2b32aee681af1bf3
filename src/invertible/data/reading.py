"""Reads files that may be damaged: whatever goes wrong becomes a `DataError` that names the file."""

import gzip
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from invertible.errors import DataError, MissingDependencyError

GET_AGAIN = "Delete it and get it again."


@contextmanager
def reading(path: Path, expected: str, remedy: str = GET_AGAIN) -> Iterator[None]:
    """Turn whatever a parser raises into a `DataError`.

    Args:
        path: the file being read.
        expected: what it should hold, such as `"an array of numpy's .npy format"`.
        remedy: what the user can do.

    Raises:
        DataError: naming the file, what was expected, what came and the remedy.
    """
    try:
        yield
    except (DataError, MissingDependencyError):
        raise
    except PermissionError as error:
        raise DataError(f"{path}: expected a file that can be read, got {_reason(error)}.") from error
    # Parsers of damaged files raise nearly everything: struct.error, zlib.error, SyntaxError, MemoryError, ...
    except Exception as error:
        raise DataError(f"{path}: expected {expected}, got {_reason(error)}. {remedy}") from error


def read_bytes(path: Path) -> bytes:
    """The content of a file, decompressed if it is compressed by gzip, whatever its name.

    Raises:
        DataError: if it cannot be read or decompressed.
    """
    with reading(path, "a file that can be read"):
        content = path.read_bytes()
    # Servers and browsers decompress on the way and leave the name.
    if content[:2] != b"\x1f\x8b":
        return content
    with reading(path, "a whole gzip file"):
        return gzip.decompress(content)


def md5(content: bytes) -> str:
    """The checksum of a file's content, in hexadecimal."""
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def check_md5(path: Path, content: bytes, expected: str, owners: dict[str, str] | None = None) -> None:
    """Check that the content is what was published.

    Args:
        path: the file, for the message.
        content: its content.
        expected: its checksum.
        owners: what other checksums belong to, such as `{"8d4f...": "fashion-mnist"}`.

    Raises:
        DataError: with both checksums.
    """
    got = md5(content)
    if got == expected:
        return
    if owners and got in owners:
        raise DataError(
            f"{path}: expected another file of this name, got that of {owners[got]}. Keep each set in a folder of its "
            f"own name, such as {path.parent / owners[got]}."
        )
    raise DataError(f"{path}: expected MD5 {expected}, got {got}: it is damaged or was changed. {GET_AGAIN}")


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    # The name of the file stands in front of the message already.
    text = error.strerror if isinstance(error, OSError) and error.strerror else text
    return f"{type(error).__name__} ({text.rstrip('.')})" if text else type(error).__name__
