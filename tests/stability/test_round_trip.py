import math

import pytest
import torch

from invertible.bijection import Bijection
from invertible.chain import Chain
from invertible.errors import ConfigError, ShapeError
from invertible.stability import relative_error, round_trip
from tests.stability.maps import Conditioned, Drift, GivesUp, Hole, SameLogDet, Shift, Squash, UnitBox


def sixteenths(*shape):
    return torch.randint(-32, 32, shape) / 16


def test_an_exact_map_has_no_error():
    trip = round_trip(Shift(), sixteenths(20, 3))
    for errors in (trip.data, trip.latent):
        assert errors.relative.shape == (20,)
        assert errors.worst == errors.median == errors.worst_log_det == 0
        assert errors.non_finite == 0
    assert trip.worst == 0


def test_the_error_is_relative_and_in_eps():
    trip = round_trip(Drift(1.01), sixteenths(20, 3) + 5)
    assert trip.data.worst == pytest.approx(0.01, rel=1e-3)
    assert trip.data.worst_in_eps == pytest.approx(0.01 / torch.finfo(torch.float32).eps, rel=1e-3)


def test_small_samples_are_measured_on_the_scale_of_their_batch():
    x = torch.tensor([[0.0], [1.0], [2.0], [3.0]])
    assert relative_error(x, x + 0.1).tolist() == pytest.approx([0.1, 0.1, 0.05, 0.1 / 3], rel=1e-6)
    assert relative_error(torch.zeros(2, 3), torch.full((2, 3), 0.1)).tolist() == pytest.approx([0.1 * 3**0.5] * 2)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_the_worst_error(value):
    x = torch.ones(3, 2)
    assert relative_error(x, torch.tensor([[1.0, 1.0], [1.0, value], [1.0, 1.5]])).tolist() == [
        0,
        math.inf,
        pytest.approx(0.5 / 2**0.5),
    ]
    assert relative_error(torch.tensor([[value, 1.0], [1.0, 1.0]]), torch.ones(2, 2)).tolist() == [math.inf, 0]


def test_the_norm_does_not_overflow():
    huge = torch.full((2, 4), 3e38)
    assert relative_error(huge, huge).tolist() == [0, 0]


def test_lost_samples_are_counted_and_never_dropped():
    x = torch.tensor([[0.0, 1.0], [5.0, 1.0], [1.0, 1.0], [6.0, 1.0]])
    errors = round_trip(Hole(), x).data
    assert errors.relative.tolist() == [0, math.inf, 0, math.inf]
    assert (errors.non_finite, errors.worst, errors.worst_index) == (2, math.inf, 1)


def test_samples_that_raise_are_counted_and_others_pass():
    x = sixteenths(33, 2).clamp(-1, 1)
    x[[3, 20]] = 7.0
    errors = round_trip(GivesUp(), x).data
    assert errors.raised.nonzero().flatten().tolist() == [3, 20]
    assert errors.relative.isinf().nonzero().flatten().tolist() == [3, 20]
    assert "did not converge" in errors.message
    assert not errors.refused.any()


def test_samples_outside_the_domain_are_refused_and_not_measured():
    x = torch.full((5, 2), 0.25)
    x[2] = -1.0
    trip = round_trip(UnitBox(), x)
    for errors in (trip.data, trip.latent):
        assert errors.refused.tolist() == [False, False, True, False, False]
        assert errors.relative[2].isnan()
        assert len(errors.measured) == 4
        assert errors.worst == 0
    assert "UnitBox" in trip.data.message


def test_refused_altogether():
    errors = round_trip(UnitBox(), torch.full((3, 2), -1.0)).data
    assert errors.refused.all()
    assert math.isnan(errors.worst)
    assert math.isnan(errors.median)


def test_log_determinants_that_do_not_cancel():
    x = sixteenths(4, 3) + 5
    assert round_trip(SameLogDet(), x).data.worst_log_det == pytest.approx(2 * math.log(2), rel=1e-6)
    assert round_trip(Chain(Shift()), x).data.worst_log_det == 0


def test_latents_of_ones_own():
    y = torch.tensor([[3.0, 0.0], [0.0, 0.0]])
    trip = round_trip(Hole(), torch.zeros(2, 2), y=y)
    assert trip.data.non_finite == 0
    assert trip.latent.relative.tolist() == [math.inf, 0]


def test_rounding_is_amplified_and_float64_cures_it():
    x = torch.tensor([[0.3, 0.7]]).expand(8, 2)
    assert round_trip(Squash(), x).data.worst > 1e-3
    assert round_trip(Squash().double(), x.double()).data.worst < 1e-9


def test_batches_give_what_the_whole_gives():
    x, condition = torch.randn(10, 3), torch.randn(10, 3)
    whole = round_trip(Conditioned(3), x, condition)
    parts = round_trip(Conditioned(3), x, condition, batch_size=3)
    assert torch.equal(whole.data.relative, parts.data.relative)
    assert torch.equal(whole.reconstruction, parts.reconstruction)


def test_infinite_data_are_lost_and_not_sent():
    x = torch.tensor([[math.inf, 0.25], [0.25, 0.25]])
    assert round_trip(UnitBox(), x).data.relative.tolist() == [math.inf, 0]


def test_blocks_are_measured_in_both_directions():
    net = Chain(Shift(), Drift(1 + 1e-4), Shift())
    trip = round_trip(net, sixteenths(6, 2) + 5, blocks=True)
    for profile, order in ((trip.blocks, [0, 1, 2]), (trip.latent_blocks, [2, 1, 0])):
        assert profile is not None
        assert [block.path.split()[0] for block in profile.blocks] == [f"bijection.blocks[{index}]" for index in order]
        assert profile.worst is not None
        assert profile.worst.path == "bijection.blocks[1] (Drift)"
        assert float(profile.worst.own.max()) == pytest.approx(1e-4, rel=0.15)  # of x or of x + 1/2
    plain = round_trip(net, sixteenths(6, 2) + 5)
    assert plain.blocks is None
    assert plain.latent_blocks is None


def test_blocks_of_latents_of_ones_own():
    net, y = Chain(Shift(), Hole()), torch.tensor([[3.0, 0.0], [0.0, 0.0]])
    trip = round_trip(net, torch.zeros(2, 2), y=y, blocks=True)
    assert trip.blocks is not None
    assert trip.blocks.first_loss is None
    assert trip.latent_blocks is not None
    assert trip.latent_blocks.first_loss == ("bijection.blocks[1] (Hole)", "there")


def test_blocks_where_nothing_arrives():
    trip = round_trip(Chain(UnitBox()), torch.full((3, 2), -1.0), blocks=True)
    assert trip.blocks is not None
    assert trip.blocks.stopped_at == ("bijection.blocks[0] (UnitBox)", "there")
    assert trip.latent_blocks is None
    assert "UnitBox" in str(trip)


def test_errors_in_units_of_eps():
    errors = round_trip(Drift(1.01), sixteenths(20, 3) + 5).data
    assert torch.equal(errors.in_eps * torch.finfo(torch.float32).eps, errors.relative)
    assert errors.median_in_eps == pytest.approx(errors.median / torch.finfo(torch.float32).eps)
    double = round_trip(Drift(1.01).double(), (sixteenths(20, 3) + 5).double()).data
    assert double.worst_in_eps > 1e8 * errors.worst_in_eps


def test_the_table_shows_both_directions_and_the_block_to_blame():
    net = Chain(Shift(), Hole(), Shift())
    text = str(round_trip(net, torch.tensor([[0.0, 0.0], [4.0, 0.0], [1.0, 0.0]]), blocks=True)).splitlines()
    there = next(line for line in text if line.startswith("x -> f(x) -> x "))
    assert there.split()[5:10] == ["0", "inf", "1", "1", "0"]
    assert text[0] == "round trips of 3 samples, errors in units of eps = 1.2e-07"
    blamed = [line for line in text if line.endswith("<- worst")]
    assert blamed
    assert all(line.startswith("bijection.blocks[1] (Hole)") for line in blamed)


class ScalarLogDet(Shift):
    def forward(self, x, condition=None):
        return x, x.new_zeros(())


class Truncates(Shift):
    def inverse(self, y, condition=None):
        return y[:, 1:], y.new_zeros(len(y))


class Complains(Bijection):
    def forward(self, x, condition=None):
        raise ShapeError("Complains: expected something else.")


@pytest.mark.parametrize(
    ("bijection", "x", "options", "error", "message"),
    [
        (Shift(), torch.zeros(0, 2), {}, ShapeError, r"round_trip: expected at least one sample, got shape \(0, 2\)"),
        (
            Shift(),
            torch.zeros(2, 2),
            {"batch_size": 0},
            ConfigError,
            "round_trip: expected batch_size of at least 1, got 0",
        ),
        (ScalarLogDet(), torch.zeros(2, 2), {}, ShapeError, r"expected log_det of shape \(2,\), got \(\)"),
        (Truncates(), torch.zeros(2, 2), {}, ShapeError, r"expected \(2, 2\) to come back, got \(2, 1\)"),
        (Complains(), torch.zeros(2, 2), {}, ShapeError, "Complains: expected something else"),
    ],
)
def test_errors(bijection, x, options, error, message):
    with pytest.raises(error, match=message):
        round_trip(bijection, x, **options)
