"""Batches, schedules, seeds, scores and pictures."""

import math

import pytest
import torch

from invertible.bijection import Bijection
from invertible.chain import Chain
from invertible.distributions import StandardNormal
from invertible.errors import ConfigError, ShapeError
from invertible.flow import Flow
from invertible.models import glow, realnvp
from invertible.training import Schedule, evaluate, sample_image
from invertible.training.batches import EvaluationBatches, Share, TrainingBatches
from invertible.training.pictures import BROKEN, draw
from invertible.training.progress import duration
from invertible.training.randomness import seed_for
from invertible.training.schedules import factor

X = torch.arange(10)[:, None].float()


def take(stream, n):
    return [batch for _, batch in zip(range(n), stream, strict=False)]


def test_an_epoch_holds_every_sample_once_and_the_next_is_another_order():
    batches = take(TrainingBatches(X, None, 5, seed=0), 4)
    first, second = (torch.cat([each[0] for each in batches[i : i + 2]]).flatten() for i in (0, 2))
    assert torch.equal(first.sort().values, X.flatten())
    assert torch.equal(second.sort().values, X.flatten())
    assert not torch.equal(first, second)


def test_the_stream_from_a_step_on_is_the_stream():
    x = torch.rand(10, 1, 2, 2)
    whole = take(TrainingBatches(x, torch.arange(10), 3, seed=1, flip=True), 9)
    for start in range(9):
        rest = take(TrainingBatches(x, torch.arange(10), 3, seed=1, flip=True, start=start), 9 - start)
        assert all(
            torch.equal(a, b)
            for old, new in zip(whole[start:], rest, strict=True)
            for a, b in zip(old, new, strict=True)
        )


def test_labels_follow_their_samples_and_flips_mirror():
    x = torch.rand(8, 1, 2, 3)
    flipped = 0
    for part, labels in take(TrainingBatches(x, torch.arange(8), 4, seed=1, flip=True), 6):
        for image, label in zip(part, labels, strict=True):
            assert torch.equal(image, x[label]) or torch.equal(image, x[label].flip(-1))
            flipped += int(not torch.equal(image, x[label]))
    assert 0 < flipped < 24


def test_cuts_are_those_of_the_padded_image_and_their_own_for_each_sample():
    x, seen = torch.randint(1, 255, (6, 2, 3, 4), dtype=torch.uint8), set()
    padded = torch.nn.functional.pad(x, (2, 2, 2, 2))
    for part, labels in take(TrainingBatches(x, torch.arange(6), 6, seed=1, crop_padding=2), 20):
        assert part.dtype == torch.uint8
        for image, label in zip(part, labels, strict=True):
            cuts = [
                (i, j) for i in range(5) for j in range(5) if torch.equal(image, padded[label, :, i : i + 3, j : j + 4])
            ]
            assert cuts
            seen.update(cuts)
    assert len(seen) == 25
    with pytest.raises(ConfigError, match="crop_padding: expected 0 for data that are no images, got 1"):
        TrainingBatches(X, None, 5, seed=0, crop_padding=1)


@pytest.mark.parametrize("start", [1, 4, 7])
def test_cuts_depend_on_seed_and_step_alone(start):
    x, options = torch.rand(10, 1, 4, 4), {"seed": 1, "crop_padding": 1, "flip": True}
    whole = take(TrainingBatches(x, None, 4, **options), 9)
    rest = take(TrainingBatches(x, None, 4, **options, start=start), 9 - start)
    assert all(torch.equal(a, b) for (a,), (b,) in zip(whole[start:], rest, strict=True))
    parts = [take(TrainingBatches(x, None, 4, **options, share=Share(rank, 2)), 9) for rank in (0, 1)]
    for (batch,), (a,), (b,) in zip(whole, *parts, strict=True):
        assert torch.equal(batch[::2], a)
        assert torch.equal(batch[1::2], b)
    other = take(TrainingBatches(x, None, 4, **{**options, "seed": 2}), 9)
    assert not torch.equal(whole[0][0], other[0][0])


def test_shares_make_up_the_batch():
    whole = take(TrainingBatches(X, None, 4, seed=2), 3)
    parts = [take(TrainingBatches(X, None, 4, seed=2, share=Share(rank, 2)), 3) for rank in (0, 1)]
    for (batch,), (a,), (b,) in zip(whole, *parts, strict=True):
        assert torch.equal(batch.sort(0).values, torch.cat([a, b]).sort(0).values)
    evaluated = [part for rank in (0, 1, 2) for (part,) in EvaluationBatches(X, None, 2, Share(rank, 3))]
    assert torch.equal(torch.cat(evaluated).sort(0).values, X)


@pytest.mark.parametrize("size", [1, 3, 10, 11])
def test_evaluation_takes_every_sample_once(size):
    batches = EvaluationBatches(X, torch.arange(10), size)
    assert len(list(batches)) == len(batches)
    assert torch.equal(torch.cat([x for x, _ in batches]), X)
    assert torch.equal(torch.cat([y for _, y in batches]), torch.arange(10))


def test_batches_that_cannot_be():
    with pytest.raises(ConfigError, match=r"data.batch_size: expected at most the 10 training samples, got 11"):
        TrainingBatches(X, None, 11, seed=0)
    with pytest.raises(ConfigError, match=r"data.batch_size: expected a multiple of the 2 devices, got 5"):
        TrainingBatches(X, None, 5, seed=0, share=Share(0, 2))


def test_schedules():
    constant = [factor(Schedule(warmup=4), step, 10) for step in range(10)]
    assert constant == pytest.approx([0.2, 0.4, 0.6, 0.8, 1, 1, 1, 1, 1, 1])
    cosine = [factor(Schedule(name="cosine", floor=0.1), step, 10) for step in (0, 5, 10, 99)]
    assert cosine == pytest.approx([1, 0.55, 0.1, 0.1])
    steps = [factor(Schedule(name="step", every=2, factor=0.5), step, 10) for step in range(5)]
    assert steps == [1, 1, 0.5, 0.5, 0.25]
    assert factor(Schedule(name="cosine", warmup=10), 10, 10) == 1
    falls = [factor(Schedule(name="milestones", at=(2, 3), factor=0.1, warmup=1), step, 10) for step in range(5)]
    assert falls == pytest.approx([0.5, 1, 0.1, 0.01, 0.01])


def test_seeds_are_fixed_numbers():
    # Written down: another number would make other runs of every seed.
    assert seed_for("noise", 0, 1) == seed_for("noise", 0, 1)
    assert len({seed_for(*parts) for parts in [("a", 1), ("a", 2), ("b", 1), ("a", "1", ""), ("a", 12)]}) == 5
    assert 0 <= seed_for("x") < 2**63


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0 s"), (59, "59 s"), (65, "1 min 05 s"), (7500, "2 h 05 min")])
def test_durations(seconds, text):
    assert duration(seconds) == text


class Breaking(Bijection):
    """The identity, but NaN where the first coordinate is above 1, in both directions."""

    def forward(self, x, condition=None):
        return torch.where(x[:, :1] > 1, math.nan, x), x.new_zeros(len(x))

    inverse = forward


def test_evaluation_counts_what_has_no_score_and_changes_nothing():
    flow = Flow(Chain(Breaking()), StandardNormal((2,))).train()
    flow.bijection.eval()
    x = torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.5, 0.0], [0.0, 3.0]])
    score = evaluate(flow, x, batch_size=3)
    assert score.unit == "nats_per_dim"
    assert score.non_finite == 1
    assert math.isnan(score.mean)
    assert score.worst(2) == [1, 3]
    assert float(score.values[0]) == pytest.approx(0.5 * math.log(2 * math.pi))
    assert flow.training
    assert not flow.bijection.training
    assert flow.validate


def test_evaluation_in_bits_does_not_depend_on_when_it_is_done():
    flow = glow((1, 4, 4), levels=1, depth=1, hidden=4, grey_levels=17)
    x = torch.randint(0, 17, (20, 1, 4, 4), dtype=torch.uint8)
    torch.manual_seed(1)
    first = evaluate(flow, x, batch_size=7, seed=3)
    torch.manual_seed(2)
    assert torch.equal(first.values, evaluate(flow, x, batch_size=7, seed=3).values)
    assert first.unit == "bits_per_dim"
    assert first.standard_error > 0
    assert len(evaluate(flow, x[:0]).values) == 0


def test_pictures_mark_what_is_broken(tmp_path):
    x = torch.rand(6, 1, 4, 4)
    x[2, 0, 1, 1] = math.nan
    x[3] = math.inf
    picture = sample_image(x, columns=3, scale=1)
    assert (picture.samples, picture.non_finite) == (6, 2)
    assert picture.pixels.shape == (2 * 5 + 1, 3 * 5 + 1, 3)
    assert int((picture.pixels == BROKEN).all(-1).sum()) == 1 + 16
    assert tuple(picture.pixels[2, 12]) == BROKEN
    picture.save(tmp_path / "a.png")
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_pictures_of_points_and_of_nothing_else():
    x = torch.randn(50, 2)
    x[0, 1] = math.nan
    picture = sample_image(x)
    assert picture.non_finite == 1
    assert picture.pixels.shape == (500, 500, 3)
    with pytest.raises(ShapeError, match=r"expected images .* got \(3, 2, 4, 4\)"):
        sample_image(torch.rand(3, 2, 4, 4))


def test_draw_returns_broken_samples_too():
    flow = Flow(Chain(Breaking()), StandardNormal((2,)))
    x = draw(flow, 200, generator=torch.Generator().manual_seed(0))
    assert 0 < int(torch.isnan(x).any(1).sum()) < 200
    assert flow.training
    assert flow.validate


def test_draw_repeats_with_its_generator():
    flow = realnvp(2, layers=2, hidden=(4,))
    first, second = (draw(flow, 5, generator=torch.Generator().manual_seed(7)) for _ in range(2))
    assert torch.equal(first, second)
