"""Set-up of every test: annotations checked at run time, seeds from the test's id, one thread."""

import os
import random
import warnings
import zlib
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from hypothesis import settings

from tests import type_checks

if os.environ.get("INVERTIBLE_NO_TYPECHECK") != "1":
    type_checks.install("invertible")

# The same examples on every run; no deadline, since a first call of torch may take seconds.
settings.register_profile("invertible", deadline=None, derandomize=True, database=None)
settings.load_profile("invertible")

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _reproducible(request):
    """Seed every generator from the test's id, and undo a changed default dtype."""
    seed = zlib.crc32(request.node.nodeid.encode())
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - libraries under test draw from the legacy generator
    torch.manual_seed(seed)
    dtype = torch.get_default_dtype()
    yield
    torch.set_default_dtype(dtype)


@pytest.fixture
def float64():
    """Double precision by default."""
    torch.set_default_dtype(torch.float64)


@pytest.fixture
def unchecked_types():
    """A context without the run-time check, for tests of our own messages about wrong types.

    Usage: `with unchecked_types(), pytest.raises(ConfigError): ActNorm("three")`.
    """

    @contextmanager
    def unchecked():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", type_checks.WrongTypeWarning)
            yield

    return unchecked
