"""ActNorm: initialised once, from data, and never again."""

import copy
import pickle

import pytest
import torch
from torch import distributed, multiprocessing

from invertible import ActNorm, ConfigError, DomainError

pytestmark = pytest.mark.usefixtures("float64")


@pytest.mark.parametrize("shape", [(64, 3), (8, 3, 4, 4), (4, 3, 2, 2, 5)])
def test_first_batch_leaves_with_mean_zero_and_variance_one(shape: tuple[int, ...]) -> None:
    x = 5 + 3 * torch.randn(shape) * torch.tensor([1.0, 10.0, 0.1]).view(-1, *(1,) * (len(shape) - 2))
    y, _ = ActNorm(3)(x)
    channels = y.transpose(0, 1).flatten(1)
    assert torch.allclose(channels.mean(1), torch.zeros(3), atol=1e-12)
    assert torch.allclose(channels.var(1, correction=0), torch.ones(3))


def test_variance_survives_a_large_mean_in_float32() -> None:
    x = (1e4 + torch.randn(1000, 2)).float()
    y, _ = ActNorm(2).float()(x)
    assert torch.allclose(y.var(0), torch.ones(2, dtype=torch.float32), atol=0.02)


def test_second_batch_changes_nothing() -> None:
    block = ActNorm(3)
    block(torch.randn(16, 3))
    before = copy.deepcopy(block.state_dict())
    block(100 * torch.randn(16, 3))
    assert all(torch.equal(before[key], value) for key, value in block.state_dict().items())


def test_survives_save_load_copy_and_pickle() -> None:
    block = ActNorm(3)
    x, other = torch.randn(16, 3), 50 + torch.randn(16, 3)
    block(x)
    expected, _ = block(other)
    fresh = ActNorm(3)
    fresh.load_state_dict(block.state_dict())
    for again in (fresh, copy.deepcopy(block), pickle.loads(pickle.dumps(block))):
        assert again.training
        assert torch.equal(again(other)[0], expected)


def test_loading_an_uninitialised_state_allows_initialising_again() -> None:
    block = ActNorm(2)
    block(torch.randn(8, 2))
    block.load_state_dict(ActNorm(2).state_dict())
    y, _ = block(7 + torch.randn(8, 2))
    assert y.mean(0).abs().max() < 1e-12


def test_never_initialises_from_latents_in_eval_or_from_nothing() -> None:
    block = ActNorm(2)
    z = 5 + torch.randn(8, 2)
    assert torch.equal(block.inverse(z)[0], z)
    assert torch.equal(block.eval()(z)[0], z)
    block.train()(z[:0])
    assert not block.initialized


@pytest.mark.parametrize("value", [0.0, 1.0, 1 / 3, 1e6])
def test_refuses_a_constant_channel_unless_there_is_a_floor(value: float) -> None:
    x = torch.randn(32, 3)
    x[:, 1] = value
    with pytest.raises(DomainError, match="got channel 1 constant"):
        ActNorm(3)(x)
    y, log_det = ActNorm(3, floor=1e-3)(x)
    assert torch.isfinite(y).all()
    assert torch.isfinite(log_det).all()


def test_refuses_a_single_value_a_channel_and_non_finite_data() -> None:
    with pytest.raises(DomainError, match="constant"):
        ActNorm(3)(torch.randn(1, 3))
    x = torch.randn(8, 3)
    x[2, 0] = float("nan")
    block = ActNorm(3)
    with pytest.raises(DomainError, match="expected finite data"):
        block(x)
    assert not block.initialized
    with pytest.raises(ConfigError, match="positive floor"):
        ActNorm(3, floor=0.0)


def _rank(rank: int, path: str, queue) -> None:
    distributed.init_process_group("gloo", init_method=f"file://{path}", rank=rank, world_size=2)
    torch.manual_seed(rank)
    block = ActNorm(2).double()
    block(rank * 10 + torch.randn(8 + 8 * rank, 2, dtype=torch.float64))
    queue.put((rank, block.shift.detach().numpy(), block.log_scale.detach().numpy()))
    distributed.destroy_process_group()


@pytest.mark.slow
def test_equal_on_all_ranks(tmp_path) -> None:
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    processes = [context.Process(target=_rank, args=(rank, str(tmp_path / "store"), queue)) for rank in range(2)]
    for process in processes:
        process.start()
    results = {rank: (shift, scale) for rank, shift, scale in (queue.get(timeout=60) for _ in range(2))}
    for process in processes:
        process.join(60)
    batches = []
    for rank in range(2):
        torch.manual_seed(rank)
        batches.append(rank * 10 + torch.randn(8 + 8 * rank, 2))
    together = ActNorm(2)
    together(torch.cat(batches))
    for shift, scale in results.values():
        assert torch.allclose(torch.from_numpy(shift), together.shift)
        assert torch.allclose(torch.from_numpy(scale), together.log_scale)
