"""Squeeze, Haar, Flatten, Permutation: where every number goes."""

import pytest
import torch

from invertible import ConfigError, Flatten, Haar, Permutation, ShapeError, Squeeze

X = torch.arange(2 * 3 * 4 * 6, dtype=torch.float32).view(2, 3, 4, 6)


def test_channel_major_is_pixel_unshuffle() -> None:
    assert torch.equal(Squeeze()(X)[0], torch.nn.functional.pixel_unshuffle(X, 2))


def test_space_major_is_space_to_depth() -> None:
    y, _ = Squeeze(order="space-major")(X)
    for i in range(2):
        for j in range(2):
            assert torch.equal(y[:, (2 * i + j) * 3 : (2 * i + j + 1) * 3], X[:, :, i::2, j::2])


@pytest.mark.parametrize("order", ["channel-major", "space-major"])
def test_channels_last_changes_memory_not_values(order: str) -> None:
    y, _ = Squeeze(order=order, channels_last=True)(X)
    assert torch.equal(y, Squeeze(order=order)(X)[0])
    x, _ = Squeeze(order=order, channels_last=True).inverse(y)
    assert torch.equal(x, X)
    assert x.is_contiguous()
    if order == "channel-major":
        assert y.is_contiguous(memory_format=torch.channels_last)


def test_haar_bands() -> None:
    a, b, c, d = X[:, :, ::2, ::2], X[:, :, ::2, 1::2], X[:, :, 1::2, ::2], X[:, :, 1::2, 1::2]
    expected = torch.cat([a + b + c + d, a - b + c - d, a + b - c - d, a - b - c + d], 1) / 2
    assert torch.allclose(Haar()(X)[0], expected)


def test_haar_is_an_isometry() -> None:
    x = torch.randn(4, 2, 8, 8, dtype=torch.float64)
    assert torch.allclose(Haar()(x)[0].flatten(1).norm(dim=1), x.flatten(1).norm(dim=1))


def test_flatten_keeps_the_order() -> None:
    assert torch.equal(Flatten((3, 4, 6))(X)[0], X.flatten(1))


def test_permutation_orders() -> None:
    x = torch.arange(4.0)[None]
    assert Permutation(4, "reverse")(x)[0].tolist() == [[3, 2, 1, 0]]
    assert Permutation(4, [2, 0, 3, 1])(x)[0].tolist() == [[2, 0, 3, 1]]
    assert torch.equal(Permutation(50, seed=3).indices, Permutation(50, seed=3).indices)
    assert not torch.equal(Permutation(50, seed=3).indices, Permutation(50, seed=4).indices)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: Squeeze(1), ConfigError, "factor of at least 2, got 1"),
        (lambda: Squeeze(order="rows"), ConfigError, "order to be one of 'channel-major', 'space-major'"),
        (
            lambda: Squeeze()(torch.zeros(1, 1, 3, 4)),
            ShapeError,
            "Squeeze: expected x with height and width divisible by 2",
        ),
        (lambda: Squeeze().inverse(torch.zeros(1, 6, 2, 2)), ShapeError, "channels divisible by 4"),
        (lambda: Haar()(torch.zeros(1, 1, 3, 4)), ShapeError, "Haar: expected x with even height and width"),
        (lambda: Haar().inverse(torch.zeros(1, 6, 2, 2)), ShapeError, "channels divisible by 4"),
        (lambda: Flatten((2, 3))(torch.zeros(1, 2, 4)), ShapeError, r"Flatten: expected x of shape \(batch, 2, 3\)"),
        (lambda: Flatten((2, 0)), ConfigError, "at least 1, got 0"),
        (lambda: Permutation(3, [0, 1, 1]), ConfigError, "permutation of 0 .. 2"),
        (lambda: Permutation(3, "swap"), ConfigError, "'random', 'reverse'"),
    ],
)
def test_errors(call, error, message) -> None:
    with pytest.raises(error, match=message):
        call()
