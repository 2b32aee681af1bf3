"""The laws, over the table of all blocks and models."""

import copy
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from invertible.testing import check_bijection
from tests.registry import BLOCKS, NAMES, make
from tests.tools import randomise

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("name", NAMES)
def test_laws(name: str) -> None:
    block, x, condition = make(name)
    check_bijection(block, x, condition, claims=BLOCKS[name].claims if name in BLOCKS else ())


@pytest.mark.parametrize("name", list(BLOCKS))
@pytest.mark.parametrize(
    ("dtype", "limit"), [(torch.float32, 1e-4), (torch.float64, 1e-10)], ids=["float32", "float64"]
)
@torch.no_grad()
def test_worst_relative_round_trip_over_random_instances(name: str, dtype: torch.dtype, limit: float) -> None:
    for instance in range(4):
        # The first instance is as the constructor leaves it.
        block, x, condition = make(name, dtype, 64, deviation=0.0 if instance == 0 else None)
        y, log_det = block(x, condition)
        back, log_det_back = block.inverse(y, condition)
        scale = x.flatten(1).norm(dim=1).clamp_min(float(x.flatten(1).norm(dim=1).median()))
        assert ((back - x).flatten(1).norm(dim=1) / scale).max() < limit
        assert (log_det + log_det_back).abs().max() < limit * max(1.0, float(log_det.abs().max())) * x[0].numel()


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_copies_and_files_keep_the_map_to_the_bit(name: str) -> None:
    block, x, condition = make(name)
    y, log_det = block(x, condition)
    copies = [copy.deepcopy(block)]
    if "user-net" not in name:
        copies.append(pickle.loads(pickle.dumps(block)))
    fresh = randomise(make(name)[0])
    fresh.load_state_dict(block.state_dict())
    for other in (*copies, fresh):
        again, log_det_again = other(x, condition)
        assert torch.equal(again, y)
        assert torch.equal(log_det_again, log_det)


@pytest.mark.parametrize("name", NAMES)
def test_empty_batch_passes_through(name: str) -> None:
    block, x, condition = make(name)
    empty = None if condition is None else condition[:0]
    y, log_det = block(x[:0], empty)
    assert (len(y), log_det.shape) == (0, (0,))
    back, _ = block.inverse(y, empty)
    assert back.shape == x[:0].shape


@pytest.mark.parametrize("name", list(BLOCKS))
@torch.no_grad()
def test_autocast_runs_and_keeps_log_det_in_float32(name: str) -> None:
    block, x, condition = make(name, torch.float32)
    expected, _ = block(x, condition)
    with torch.autocast("cpu", torch.bfloat16):
        y, log_det = block(x, condition)
        back, log_det_back = block.inverse(y, condition)
    assert y.dtype == log_det.dtype == log_det_back.dtype == torch.float32
    assert (y.float() - expected).abs().max() < 0.2 * (1 + expected.abs().max())
    assert (back.float() - x).abs().max() < 0.2 * (1 + x.abs().max())


@pytest.mark.parametrize("name", list(BLOCKS))
@torch.no_grad()
def test_bfloat16_runs_and_keeps_log_det_in_float32(name: str) -> None:
    block, x, condition = make(name, torch.float32)
    expected, _ = block(x, condition)
    y, log_det = block.bfloat16()(x.bfloat16(), None if condition is None else condition.bfloat16())
    assert y.dtype == torch.bfloat16
    assert log_det.dtype == torch.float32
    assert (y.float() - expected).abs().max() < 0.2 * (1 + expected.abs().max())


@pytest.mark.parametrize("name", list(BLOCKS))
def test_vmap_and_jacrev(name: str) -> None:
    if name.startswith("logit") and "inverted" not in name:
        pytest.skip("checks the values of its input, which vmap cannot")
    block, x, condition = make(name)

    def one(row: torch.Tensor, c: torch.Tensor | None) -> torch.Tensor:
        return block(row[None], None if c is None else c[None])[0][0]

    dims = (0, None if condition is None else 0)
    jacobians = torch.func.vmap(torch.func.jacrev(one), dims)(x, condition).reshape(len(x), x[0].numel(), -1)
    assert torch.allclose(torch.linalg.slogdet(jacobians)[1], block(x, condition)[1], atol=1e-8)


COMPILED = """
import sys
import torch
from tests.registry import make

for name in sys.argv[1:]:
    block, x, condition = make(name)
    with torch.no_grad():
        y, log_det = block(x, condition)
    torch.compiler.reset()
    forward, inverse = (torch.compile(f, backend="aot_eager", fullgraph=True) for f in (block, block.inverse))
    assert all(torch.allclose(a, b) for a, b in zip(forward(x, condition), (y, log_det))), name
    assert torch.allclose(inverse(y, condition)[0], x), name
"""


@pytest.mark.slow
def test_compiles_to_one_graph_in_both_directions() -> None:
    """In a process of its own: the run-time check of annotations cannot be traced."""
    names = [
        "affine-conditional",
        "spline-odd",
        "additive-checkerboard",
        "conv1x1-plu",
        "actnorm",
        "haar",
        "factor-out",
    ]
    names += ["chain", "chain-runs-of-all-kinds", "chain-run-of-matrices"]
    paths = os.pathsep.join((str(ROOT / "src"), str(ROOT)))
    command = [sys.executable, "-c", COMPILED, *names]
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": paths}, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-2000:]
