"""The same three flows in every library.

Conditioners have the same layers everywhere; `Model.note` says where an architecture differs otherwise. Each library
comes in the fastest form that its public interface offers. One module a library, one function a case.
"""

import importlib

from peers.model import SHAPE, Model

FLOOR, OURS = "floor", "invertible"
LIBRARIES = (FLOOR, OURS, "nflows", "normflows", "FrEIA", "zuko", "torchflows")
# Batch size and shape of one sample.
DATA = {"realnvp": (256, (64,)), "spline": (256, (64,)), "glow": (16, SHAPE)}


def build(library: str, case: str) -> Model | None:
    """The case's model; `None` where the library has no such architecture.

    Raises:
        ImportError: if the library is not installed.
    """
    builder = getattr(importlib.import_module(f"peers.with_{library.lower()}"), case, None)
    return builder and builder()
