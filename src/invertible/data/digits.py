"""Handwritten digits of 8x8 pixels, which come with scikit-learn."""

import torch

from invertible.data.dataset import Split
from invertible.data.splits import Found
from invertible.errors import require

SOURCE = (
    "Optical Recognition of Handwritten Digits, test part (Alpaydin and Kaynak 1998), UCI Machine Learning "
    "Repository, CC BY 4.0; as distributed with scikit-learn"
)


def read_digits() -> Found:
    """1797 images (1, 8, 8) of 17 levels, 10 classes.

    Raises:
        MissingDependencyError: if scikit-learn is not installed.
    """
    digits = require("sklearn.datasets", "data").load_digits()
    x = torch.from_numpy(digits.images).to(torch.uint8).unsqueeze(1)
    y = torch.from_numpy(digits.target).to(torch.int64)
    return Found(Split(x, y), SOURCE, levels=17, classes=tuple("0123456789"))
