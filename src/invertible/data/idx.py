"""The idx format of MNIST and its kin (LeCun, Cortes and Burges 1998): big-endian sizes, then bytes."""

import math
import struct
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from invertible.data.reading import GET_AGAIN
from invertible.errors import DataError

HOLDS = {1: "labels", 3: "images"}


def parse_idx(path: Path, content: bytes, axes: int) -> Tensor:
    """Read uint8 labels (N,) or images (N, H, W).

    Args:
        path: the file, for messages.
        content: its content, uncompressed.
        axes: 1 for labels, 3 for images.

    Raises:
        DataError: if the magic number, the sizes or the length is wrong.
    """
    header = 4 + 4 * axes
    if len(content) < header:
        raise DataError(
            f"{path}: expected an idx file of {HOLDS[axes]}, with a header of {header} bytes, got {len(content)} "
            f"bytes in all. {GET_AGAIN}"
        )
    # Two zero bytes, 8 for unsigned bytes, the number of axes.
    magic = bytes((0, 0, 8, axes))
    if content[:4] != magic:
        raise DataError(
            f"{path}: expected an idx file of {HOLDS[axes]}, which begins with the bytes {magic.hex(' ')}, got "
            f"{_kind(content)}. Check whether files are exchanged, or get it again."
        )
    sizes = struct.unpack(f">{axes}I", content[4:header])
    # Not np.prod: the sizes of a damaged header overflow it.
    expected = header + math.prod(sizes)
    if len(content) != expected or 0 in sizes:
        raise DataError(
            f"{path}: expected {expected} bytes for {HOLDS[axes]} of sizes {sizes}, as its header has it, got "
            f"{len(content)}. It is cut short or damaged. {GET_AGAIN}"
        )
    return torch.from_numpy(np.frombuffer(content, np.uint8, offset=header).reshape(sizes).copy())


def _kind(content: bytes) -> str:
    first = content[:4].hex(" ")
    other = content[3]
    if content[:3] == bytes((0, 0, 8)) and other in HOLDS:
        return f"{first}, those of {HOLDS[other]}"
    if content.lstrip()[:1] == b"<":
        return f"{first}, perhaps a web page"
    return first
