"""Data sets: digits, toys in the plane, published images, and one's own files."""

from invertible.data.catalogue import load, names
from invertible.data.dataset import DataSet, Split

__all__ = ["DataSet", "Split", "load", "names"]
