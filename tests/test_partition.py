"""Masks as lossless cuts."""

import pytest
import torch
from torch import Tensor

from invertible import AffineCoupling, ConfigError, ShapeError
from invertible.partition import partition


@pytest.mark.parametrize(
    ("mask", "shape"),
    [
        ("half", (3, 6)),
        ("half", (3, 7)),
        ("channel", (2, 4, 3, 5)),
        ("alternating", (3, 6)),
        ("alternating", (3, 7)),
        ("alternating", (2, 5, 3, 2)),
        ("checkerboard", (2, 3, 4, 6)),
        (torch.tensor([True, False, False, True, True]), (3, 5)),
        (torch.tensor([True, False, False]), (2, 3, 4, 4)),
    ],
    ids=str,
)
def test_merge_undoes_split_to_the_bit(mask: str | Tensor, shape: tuple[int, ...]) -> None:
    cut = partition(mask, shape[1])
    x = torch.randn(shape)
    a, b = cut.split(x)
    assert (a.shape[1], b.shape[1]) == cut.sizes
    assert a.numel() + b.numel() == x.numel()
    assert torch.equal(cut.merge(a, b), x)


def test_checkerboard_sends_each_colour_to_its_part() -> None:
    rows, columns = torch.meshgrid(torch.arange(4), torch.arange(6), indexing="ij")
    colour = ((rows + columns) % 2).float()[None, None]
    black, white = partition("checkerboard", 1).split(colour)
    assert black.eq(0).all()
    assert white.eq(1).all()


def test_user_mask_keeps_the_true_features() -> None:
    block = AffineCoupling(4, mask=torch.tensor([False, True, False, True]))
    torch.nn.init.normal_(block.net.last.weight)
    x = torch.randn(5, 4)
    changed = (block(x)[0] != x).all(0)
    assert changed.tolist() == [True, False, True, False]


def test_key_tells_equal_cuts() -> None:
    first, second = torch.tensor([True, False, True]), torch.tensor([False, True, True])
    assert partition(first, 3).key == partition(first.clone(), 3).key
    assert partition(first, 3).key != partition(second, 3).key
    assert partition("half", 4).key != partition("half", 6).key


def test_refuses_wrong_masks() -> None:
    with pytest.raises(
        ConfigError, match="expected mask to be one of 'half', 'channel', 'alternating', 'checkerboard'"
    ):
        partition("stripes", 4)
    with pytest.raises(ConfigError, match=r"expected mask of shape \(4,\), got \(3,\)"):
        partition(torch.ones(3).bool(), 4)
    with pytest.raises(ConfigError, match="boolean tensor"):
        partition(torch.ones(3), 3)
    with pytest.raises(ConfigError, match="a feature in either part at least, got 3 and 0 of 3"):
        partition(torch.ones(3).bool(), 3)
    with pytest.raises(ShapeError, match="even height and width"):
        partition("checkerboard", 1).split(torch.zeros(1, 1, 3, 4))
