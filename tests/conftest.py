"""Set-up of every test: annotations checked at run time, seeds from the test's id, one thread."""

import os
import random
import sys
import zlib
from contextlib import contextmanager

import jaxtyping
import numpy as np
import pytest
import torch
from beartype import BeartypeConf, beartype
from hypothesis import settings

# An int may stand where a float is annotated, as PEP 484 has it and as every caller writes it.
check_types = beartype(conf=BeartypeConf(is_pep484_tower=True))

if os.environ.get("INVERTIBLE_NO_TYPECHECK") != "1":
    if "invertible" in sys.modules:
        raise RuntimeError("invertible was imported before tests/conftest.py could have its annotations checked.")
    jaxtyping.install_import_hook("invertible", f"{__name__}.check_types")

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
        before = jaxtyping.config.jaxtyping_disable
        jaxtyping.config.update("jaxtyping_disable", True)
        try:
            yield
        finally:
            jaxtyping.config.update("jaxtyping_disable", before)

    return unchecked
