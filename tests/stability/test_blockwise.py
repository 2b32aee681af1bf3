import math

import pytest
import torch

from invertible.blocks import ActNorm, AffineCoupling, Squeeze
from invertible.chain import Chain
from invertible.errors import ShapeError
from invertible.stability import block_round_trips
from tests.stability.maps import Conditioned, Drift, GivesUp, Halves, Hole, Shift, Squash, UnitBox


def paths(found):
    return [block.path for block in found.blocks]


def test_blocks_are_found_in_chains_of_chains_and_in_containers_of_ones_own():
    net = Chain(Shift(), Chain(Shift(), Halves(Shift(), Chain(Shift()))), Shift().inverted)
    found = block_round_trips(net, torch.zeros(3, 4))
    assert paths(found) == [
        "bijection.blocks[0] (Shift)",
        "bijection.blocks[1].blocks[0] (Shift)",
        "bijection.blocks[1].blocks[1].first (Shift)",
        "bijection.blocks[1].blocks[1].second.blocks[0] (Shift)",
        "bijection.blocks[2].bijection (Shift)",
    ]
    assert all(block.own.tolist() == block.back.tolist() == [0, 0, 0] for block in found.blocks)
    assert found.first_loss is None


def test_a_single_block():
    assert paths(block_round_trips(Shift(), torch.zeros(1, 2))) == ["bijection (Shift)"]


def test_a_block_that_runs_twice_is_measured_twice():
    block = Shift()
    found = block_round_trips(Chain(block, Squash(), block), torch.ones(2, 2) / 4)
    assert len(found.blocks) == 3
    assert found.blocks[0].path == found.blocks[2].path
    assert not any(each.back.isnan().any() for each in found.blocks)


def test_the_wrong_block_stands_out():
    net = Chain(Shift(), Drift(1.01), Shift())
    own = [float(block.own.max()) for block in block_round_trips(net, torch.full((4, 2), 4.0)).blocks]
    assert own == [0, pytest.approx(0.01, rel=1e-3), 0]


def test_the_amplifying_block_stands_out():
    x = torch.tensor([[0.25, 0.7]]).expand(4, 2)
    found = block_round_trips(Chain(Shift(), Shift().inverted, Squash(30.0), Drift(1 + 1e-6)), x)
    factors = [float(block.amplification.max()) for block in found.blocks]
    assert 100 < factors[2] < math.exp(30 * 0.25) + 2
    assert max(factors[0], factors[1], factors[3]) < 30
    assert float(found.blocks[0].back.max()) > 50 * float(found.blocks[3].back.max())


def test_the_block_to_blame():
    x = torch.tensor([[0.25, 0.7]]).expand(4, 2)
    amplifies = block_round_trips(Chain(Shift(), Shift().inverted, Squash(30.0), Drift(1 + 1e-6)), x)
    assert amplifies.worst is amplifies.blocks[2]
    wrong = block_round_trips(Chain(Shift(), Drift(1.01), Shift()), torch.full((4, 2), 4.0))
    assert wrong.worst is wrong.blocks[1]
    lost = block_round_trips(Chain(Hole(), Shift(), Hole()), torch.tensor([[0.0, 0.0], [4.0, 0.0]]))
    assert lost.worst is lost.blocks[2]  # the first one that the way back meets
    assert lost.eps == torch.finfo(torch.float32).eps
    there = block_round_trips(Chain(Shift(), Squash(300.0).inverted, Shift()), torch.tensor([[1.0, 1.0], [-0.5, 0.0]]))
    assert there.worst is there.blocks[1]


def test_the_table_reads():
    x = torch.tensor([[0.25, 0.7]]).expand(4, 2)
    lines = str(block_round_trips(Chain(Shift(), Squash(30.0)), x)).splitlines()
    assert lines[0].split() == ["block", "own", "way", "back", "times", "lost"]
    assert lines[2].startswith("bijection.blocks[1] (Squash)")
    assert lines[2].endswith("<- worst")
    assert float(lines[2].split()[2]) > 100  # eps
    stopped = str(block_round_trips(Chain(Shift(), GivesUp()), torch.full((2, 2), 4.0)))
    assert "stopped at bijection.blocks[1] (GivesUp), on the way back: ConvergenceError" in stopped


def test_the_way_back_names_the_first_loss():
    net = Chain(Shift(), Hole(), Shift())
    found = block_round_trips(net, torch.tensor([[0.0, 0.0], [4.0, 0.0]]))
    assert found.first_loss == ("bijection.blocks[1] (Hole)", "back")
    assert found.blocks[1].own.tolist() == [0, math.inf]
    assert found.blocks[0].back[1].isnan()  # it never got the sample


def test_the_way_there_names_the_first_loss():
    net = Chain(Shift(), Squash(300.0).inverted, Shift())
    found = block_round_trips(net, torch.tensor([[1.0, 1.0], [-0.5, 0.0]]))
    assert found.first_loss == ("bijection.blocks[1].bijection (Squash)", "there")
    assert found.blocks[2].own.isnan().tolist() == [True, False]


def test_an_error_on_the_way_names_the_block():
    back = block_round_trips(Chain(Shift(), GivesUp(), Shift()), torch.full((2, 2), 4.0))
    assert back.first_loss == ("bijection.blocks[1] (GivesUp)", "back")
    assert "ConvergenceError: GivesUp" in back.stopped_by
    there = block_round_trips(Chain(Shift(), UnitBox()), torch.full((2, 2), 4.0))
    assert there.first_loss == ("bijection.blocks[1] (UnitBox)", "there")
    assert len(there.blocks) == 1


def test_latents_go_the_other_way_round():
    net = Chain(Shift(), Squash(10.0))
    found = block_round_trips(net.inverted, torch.rand(3, 2))
    assert paths(found) == ["bijection.blocks[1] (Squash)", "bijection.blocks[0] (Shift)"]
    assert not found.blocks[0].back.isnan().any()


def test_couplings_that_hand_parts_to_each_other_are_measured_one_by_one():
    net = Chain(*[AffineCoupling(4, hidden=(8,)) for _ in range(3)])
    found = block_round_trips(net, torch.randn(5, 4))
    assert len(found.blocks) == 3
    assert all(float(block.back.max()) < 1e-6 for block in found.blocks)


def test_images_through_inverted_squeezes():
    net = Chain(Squeeze(), ActNorm(4), Squeeze().inverted)
    found = block_round_trips(net, torch.rand(3, 1, 4, 4))
    assert paths(found)[-1] == "bijection.blocks[2].bijection (Squeeze)"
    assert not any(block.back.isnan().any() for block in found.blocks)


def test_the_condition_reaches_the_blocks():
    found = block_round_trips(Chain(Shift(), Conditioned(2)), torch.rand(3, 2), torch.rand(3, 2))
    assert all(float(block.own.max()) < 1e-6 for block in found.blocks)


def test_nothing_is_left_behind():
    net = Chain(Shift(), Chain(GivesUp()))
    before = {name: set(vars(module)) for name, module in net.named_modules()}
    block_round_trips(net, torch.full((2, 2), 4.0))
    assert {name: set(vars(module)) for name, module in net.named_modules()} == before
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())


def test_a_wrong_shape_is_the_callers_error():
    with pytest.raises(ShapeError):
        block_round_trips(Chain(ActNorm(3)), torch.zeros(2, 4))
