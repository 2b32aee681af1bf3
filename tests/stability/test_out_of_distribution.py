import pytest
import torch

from invertible.errors import DomainError, ShapeError
from invertible.stability import out_of_distribution

NAMES = ["uniform", "gaussian", "rademacher", "constant", "inverted", "shuffled", "scaled x3", "scaled x10"]


def seeded():
    return torch.Generator().manual_seed(0)


def test_images():
    x = torch.rand(50, 3, 4, 4)
    made = out_of_distribution(x, generator=seeded())
    assert list(made) == NAMES
    assert all(values.shape == x.shape and values.dtype == x.dtype for values in made.values())
    assert all(values.min() >= 0 and values.max() <= 1 for name, values in made.items() if "scaled" not in name)
    assert set(made["rademacher"].unique().tolist()) == {0, 1}
    # clip(0.5 + N(0, 1)) has P(x = 0) = P(x = 1) = 0.309.
    assert float((made["gaussian"] == 0).float().mean()) == pytest.approx(0.309, abs=0.03)
    assert float(made["uniform"].std()) == pytest.approx(12**-0.5, abs=0.02)
    assert torch.equal(made["constant"], made["constant"][..., :1, :1].expand_as(x))
    assert torch.equal(made["inverted"], 1 - x)
    assert torch.allclose(made["scaled x3"], 0.5 + 3 * (x - 0.5))
    assert torch.allclose(made["scaled x10"], 0.5 + 10 * (x - 0.5), atol=1e-6)


def test_pixels_are_shuffled_with_their_channels():
    x = torch.rand(5, 3, 4, 4)
    shuffled = out_of_distribution(x, generator=seeded())["shuffled"]
    assert not torch.equal(shuffled, x)
    for one, other in zip(x.flatten(2), shuffled.flatten(2), strict=True):
        assert sorted(map(tuple, one.T.tolist())) == sorted(map(tuple, other.T.tolist()))


def test_vectors_keep_to_the_box_of_each_feature():
    x = torch.randn(200, 2) * torch.tensor([1.0, 100.0]) + torch.tensor([0.0, 1e3])
    low, high = x.amin(0), x.amax(0)
    made = out_of_distribution(x, generator=seeded())
    for name, values in made.items():
        if "scaled" not in name:
            assert bool(((values >= low - 1e-3) & (values <= high + 1e-3)).all()), name
    corners = {tuple(row) for row in made["rademacher"].tolist()}
    assert corners == {(a, b) for a in (float(low[0]), float(high[0])) for b in (float(low[1]), float(high[1]))}
    assert torch.equal(made["shuffled"].sort(0).values, x.sort(0).values)
    assert torch.allclose(made["scaled x3"].mean(0), x.mean(0), rtol=1e-3, atol=1e-3)
    position = (made["constant"] - low) / (high - low)
    assert torch.allclose(position[:, 0], position[:, 1], atol=1e-3)


def test_levels_are_dequantised():
    x = torch.randint(0, 17, (40, 1, 4, 4), dtype=torch.uint8)
    made = out_of_distribution(x, levels=17, generator=seeded())
    assert set((made["rademacher"] * 17).floor().unique().tolist()) == {0, 16}
    assert len(made["rademacher"].unique()) > 100
    assert all(made[name].min() >= 0 and made[name].max() < 1 for name in NAMES[:4])
    constant = (made["constant"] * 17).floor()
    assert torch.equal(constant, constant[..., :1, :1].expand_as(constant))


def test_a_feature_that_never_varies_gets_a_box():
    made = out_of_distribution(torch.tensor([[1.0, 2.0], [1.0, 3.0]]), generator=seeded())
    assert made["uniform"][:, 0].min() >= 1
    assert made["uniform"].isfinite().all()


def test_another_data_set_comes_last():
    made = out_of_distribution(torch.rand(4, 2), other=torch.ones(7, 2), generator=seeded())
    assert list(made)[-1] == "other"
    assert made["other"].shape == (7, 2)


def test_the_same_seed_gives_the_same_sets():
    x = torch.rand(4, 1, 4, 4)
    first, second = (out_of_distribution(x, generator=seeded()) for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(
    ("x", "options", "error", "message"),
    [
        (
            torch.zeros(0, 2),
            {},
            ShapeError,
            r"out_of_distribution: expected x of shape \(batch, ...\), not empty, got \(0, 2\)",
        ),
        (torch.tensor([[float("nan")]]), {}, DomainError, "expected x to be finite"),
        (torch.zeros(2, 2, dtype=torch.uint8), {}, ShapeError, "got torch.uint8. Convert them with x.float"),
        (
            torch.rand(2, 3),
            {"other": torch.rand(2, 4)},
            ShapeError,
            r"expected other of shape \(batch, 3\) like x, got \(2, 4\)",
        ),
    ],
)
def test_errors(x, options, error, message):
    with pytest.raises(error, match=message):
        out_of_distribution(x, **options)
