"""The sections of an audit beside round trips."""

import json
import math
from dataclasses import replace

import pytest
import torch

from invertible.bijection import Bijection, LipschitzBounds
from invertible.blocks import AffineCoupling, DiagonalScaling
from invertible.chain import Chain
from invertible.distributions import StandardNormal
from invertible.errors import ConfigError
from invertible.flow import Flow
from invertible.memory import Reversible
from invertible.stability import AuditOptions, audit, findings, from_dict, headline, to_dict
from invertible.stability.audit_options import EFFORTS, ROUND_TRIPS, SECTIONS
from invertible.stability.findings import remedies
from invertible.stability.records import ADVERSARIAL, EXPLOSION, ROUNDING, BlockSummary, SetRecord
from invertible.stability.remedies import BOUND_SCALES, FEWER, IN_FLOAT64, NOT_FLOAT64, advice_for
from invertible.stability.sections import AuditInterrupted
from invertible.stability.summaries import BROKEN, DONE, INTERRUPTED, UNSUITED, BlockBound, BoundsSummary
from tests.stability.maps import Drift, Hole, Remembers, Shift, Squash, UnitBox

LITTLE = {"samples": 12, "traced": 4, "ood": False, "temperatures": (1.0,)}


def options(*sections, **changes):
    return AuditOptions(**LITTLE | {"sections": sections} | changes)


def flow_of(*blocks, shape=(2,), **more):
    return Flow(Chain(*blocks), StandardNormal(shape), **more)


def diagonal(*scales):
    block = DiagonalScaling(len(scales))
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.copy_(torch.tensor(scales).log().reshape(parameter.shape))
    assert torch.allclose(block(torch.ones(1, len(scales)))[0], torch.tensor([scales]))
    return block


class Loose(Shift):
    """Declares log-determinants that cancel in a round trip, and are wrong."""

    def forward(self, x, condition=None):
        return x + 0.5, x.new_full((len(x),), 0.2)

    def inverse(self, y, condition=None):
        return y - 0.5, y.new_full((len(y),), -0.2)


class NoGradients(Shift):
    """Raises what is no error about values as soon as somebody wants gradients."""

    def forward(self, x, condition=None):
        if x.requires_grad:
            raise RuntimeError("no gradients here\nand more")
        return super().forward(x)


class Breaks(Shift):
    """Raises what is no error about values where a value is above 2."""

    def forward(self, x, condition=None):
        if bool((x > 2).any()):
            raise IndexError("bin 7 of 5")
        return super().forward(x)


class Declared(Shift):
    """Its inverse has no bound."""

    def bounds(self, domain=None):
        return LipschitzBounds(1.0, math.inf)


def test_attacked_samples_are_one_more_set():
    x = torch.rand(40, 2, generator=torch.Generator().manual_seed(0))
    record = audit(flow_of(Shift()), x, train=x, options=options("attack", attack_radius=0.01))
    assert [one.name for one in record.sets] == ["train", "test", "attacked", "latents T=1"]
    attacked, found = record.sets[2], record.attack
    assert (attacked.kind, attacked.samples, attacked.required) == (ADVERSARIAL, 4, True)
    assert (found.radius, found.radius_reason, found.set, found.samples) == (0.01, "as asked", "test", 4)
    assert len(found.median) == len(found.worst) == found.steps + 2
    moved = (attacked.examples.start - attacked.examples.origin).abs()
    assert 0 < moved.max() <= 0.01 + 1e-6
    assert torch.equal(attacked.examples.origin, x[list(attacked.examples.samples)])
    assert record.passed


def test_a_hole_near_the_data_is_found_and_decides():
    x = torch.full((12, 2), 1.49) + 1e-4 * torch.rand(12, 2)
    chosen = {"attack_radius": 0.05, "temperatures": (0.1,)}
    record = audit(flow_of(Hole()), x, options=options("attack", **chosen))
    assert next(one for one in record.sets if one.name == "test").status == "passed"
    assert record.attack.lost > 0
    assert math.isinf(record.attack.worst[-1])
    assert not record.passed
    finding = next(each for each in findings(record) if each.subject == "attacked")
    assert finding.level == "failure"
    assert "do not come back finite" in finding.text or "does not come back finite" in finding.text
    assert finding.remedy
    assert audit(flow_of(Hole()), x, options=options("attack", **chosen, strict=False)).passed


def test_the_radius_follows_from_levels_or_from_the_data():
    flow = flow_of(Shift(), shape=(1, 4, 4), levels=17)
    pixels = torch.randint(0, 17, (12, 1, 4, 4), dtype=torch.uint8)
    found = audit(flow, pixels, options=options("attack")).attack
    assert (found.radius, found.radius_reason) == (0.5 / 17, "half of one of 17 grey levels")
    x = 10 * torch.randn(400, 2, generator=torch.Generator().manual_seed(0))
    found = audit(flow_of(Shift()), x, options=options("attack", samples=400)).attack
    assert found.radius == pytest.approx(0.2, rel=0.1)


def test_an_attack_stays_inside_the_domain():
    x = torch.rand(12, 1, 4, 4).round()
    record = audit(flow_of(UnitBox(), shape=(1, 4, 4)), x, options=options("attack", attack_radius=0.1))
    assert [each.status for each in record.sections] == [DONE, DONE]
    attacked = next(one for one in record.sets if one.name == "attacked")
    assert (attacked.status, attacked.refused) == ("passed", 0)


def test_predicted_digits_stand_beside_the_true_error():
    record = audit(flow_of(Squash(12.0)), torch.rand(12, 2), options=options("digits"))
    assert [each.set for each in record.digits] == [one.name for one in record.sets]
    for each in record.digits:
        assert 0 < each.measured <= each.predicted
        assert each.exceeded == 0
        assert each.least <= each.median


def test_without_a_control_the_true_error_is_not_known():
    record = audit(flow_of(Squash(2.0)), torch.rand(12, 2), options=options("digits", control=False))
    assert all(math.isnan(each.measured) and each.exceeded == 0 for each in record.digits)


def test_singular_values_are_those_of_the_map():
    record = audit(flow_of(diagonal(0.5, 4.0)), torch.rand(12, 2), options=options("spectrum"))
    (found,) = record.spectrum
    assert (found.set, found.method, found.non_finite) == ("test", "dense", 0)
    assert (found.smallest, found.largest) == pytest.approx((0.5, 4.0))
    assert found.condition_worst == pytest.approx(8.0)
    assert found.log_det_error < 1e-6
    assert not record.wrong_log_det


def test_log_determinants_wrong_in_both_directions_are_caught():
    record = audit(flow_of(Loose()), torch.rand(12, 2), options=options("spectrum"))
    assert all(one.status == "passed" for one in record.sets)
    assert record.spectrum[0].log_det_error == pytest.approx(0.1)
    assert not record.passed
    (finding,) = findings(record)
    assert (finding.level, finding.subject) == ("failure", "spectrum")
    assert "1.0e-01 nats per dimension" in finding.text
    assert "check_bijection" in finding.remedy
    assert headline(record) == "The round trips held, but not all that the verdict rests on: spectrum."


def test_bounds_hold_on_the_whole_space_and_on_the_box_of_the_data():
    record = audit(flow_of(diagonal(0.5, 4.0), Declared()), torch.rand(12, 2) + 1, options=options("bounds"))
    found = record.bounds
    assert found.forward == pytest.approx(4.0, rel=1e-6)
    assert found.inverse == found.inverse_on_box == math.inf
    assert 1 < found.box[0] <= 2
    assert [block.path.split()[-1] for block in found.blocks] == ["(DiagonalScaling)", "(Declared)"]
    assert found.blocks[0].inverse == pytest.approx(2.0, rel=1e-6)
    assert found.blocks[1].reason


def crooked(memory):
    torch.manual_seed(0)
    coupling = AffineCoupling(2, hidden=(8,))
    with torch.no_grad():
        for parameter in coupling.parameters():
            parameter.copy_(torch.randn_like(parameter))
    flow = flow_of(coupling, Drift(3.0))
    flow.bijection.memory = memory
    return flow


@pytest.mark.parametrize(("memory", "level", "trains_so"), [
    ("store", "warning", False),
    (Reversible(guard=False), "failure", True),
])  # fmt: skip
def test_gradients_that_point_elsewhere(memory, level, trains_so):
    record = audit(crooked(memory), torch.randn(12, 2), options=options("gradients", tolerance=1e3))
    assert record.gradients.angle > 1
    assert record.gradients.trains_so is trains_so
    assert record.passed is not trains_so
    finding = next(each for each in findings(record) if each.subject == "gradients")
    assert finding.level == level
    assert "degrees away" in finding.text
    assert "memory='exact'" in finding.remedy


def test_gradients_of_a_good_inverse_agree():
    record = audit(flow_of(diagonal(0.5, 4.0)), torch.randn(12, 2), options=options("gradients"))
    assert record.gradients.angle < 1e-2
    assert not findings(record)


def test_a_section_without_anything_to_measure_is_no_failure():
    record = audit(diagonal(0.5, 4.0), torch.randn(12, 2), options=options("gradients"))
    assert record.gradients is None
    assert record.sections[-1].status == UNSUITED
    assert "no invertible.Chain" in record.sections[-1].message
    assert record.passed


def test_errors_end_their_section_and_no_other():
    record = audit(flow_of(NoGradients()), torch.rand(12, 2), options=AuditOptions(**LITTLE))
    statuses = {each.name: each.status for each in record.sections}
    assert list(statuses) == [ROUND_TRIPS, *SECTIONS]
    assert (statuses[ROUND_TRIPS], statuses["attack"], statuses["bounds"]) == (DONE, BROKEN, DONE)
    broken = next(each for each in findings(record) if each.subject == "attack")
    assert broken.text == "The section attack broke off by an error: RuntimeError: no gradients here"
    assert broken.level == "failure"
    assert not record.passed
    assert audit(flow_of(NoGradients()), torch.rand(12, 2), options=options("bounds")).passed


def test_errors_on_a_set_of_strangers_are_a_finding_and_on_the_data_an_error():
    record = audit(flow_of(Breaks()), torch.rand(12, 2), options=options(ood=True, temperatures=()))
    broken = next(one for one in record.sets if one.name == "scaled x10")
    assert (broken.status, broken.data) == ("failed", None)
    text = next(each.text for each in findings(record) if each.subject == "scaled x10")
    assert text.endswith("nothing could be measured: IndexError: bin 7 of 5")
    with pytest.raises(IndexError):
        audit(flow_of(Breaks()), torch.rand(12, 2) + 5, options=options())


def test_progress_is_told():
    told = []
    audit(flow_of(Shift()), torch.rand(12, 2), options=AuditOptions(**LITTLE), progress=lambda *each: told.append(each))
    done = [each[2] for each in told]
    assert done == sorted(done)
    assert all(0 <= each[2] <= each[3] for each in told)
    assert list(dict.fromkeys(each[0] for each in told)) == [ROUND_TRIPS, *SECTIONS]
    assert told[0] == (ROUND_TRIPS, "test", 0, told[0][3])


def test_an_interrupted_audit_hands_back_what_it_has():
    flow = flow_of(Remembers())

    def stop(section, detail, done, total):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as caught:
        audit(flow, torch.rand(12, 2), options=options(ood=True), progress=stop)
    assert isinstance(caught.value, AuditInterrupted)
    record = caught.value.record
    assert [one.name for one in record.sets] == ["test", "uniform"]
    assert record.sections[-1].status == INTERRUPTED
    assert not record.passed
    assert headline(record) == "Interrupted after 2 sets: nothing is decided."
    assert flow.training
    assert not flow.bijection.blocks[0].calls.any()


def test_the_whole_record_survives_strict_json():
    x = torch.rand(12, 2)
    x[:3] += 1.5
    record = audit(flow_of(Hole(), Squash(80.0), Declared()), x, options=AuditOptions(**LITTLE))
    text = json.dumps(to_dict(record), allow_nan=False)
    again = from_dict(json.loads(text))
    for name in ("options", "budget", "sections", "attack", "bounds", "gradients"):
        assert repr(getattr(again, name)) == repr(getattr(record, name)), name
    assert repr(again.digits) == repr(record.digits)
    assert repr(again.spectrum) == repr(record.spectrum)
    assert findings(again) == findings(record)
    origins = [next(one for one in each.sets if one.kind == ADVERSARIAL).examples.origin for each in (record, again)]
    assert torch.equal(*origins)


def test_effort_sets_the_numbers_and_options_replace_them():
    assert AuditOptions().budget == EFFORTS["quick"]
    full = AuditOptions(effort="full", samples=7, traced=3, temperatures=(2,)).budget
    assert (full.data, full.strangers, full.traced, full.temperatures, full.steps) == (7, 7, 3, (2.0,), 200)
    quick, most = EFFORTS["quick"], EFFORTS["full"]
    for name in ("data", "strangers", "traced", "attacked", "steps", "restarts", "decomposed", "iterations", "graded"):
        assert getattr(quick, name) < getattr(most, name), name
    record = audit(flow_of(Shift()), torch.rand(12, 2), options=options())
    assert record.budget == record.options.budget


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"effort": "slow"}, "AuditOptions: expected effort to be one of 'quick', 'full', got 'slow'"),
        ({"sections": ("speed",)}, "expected sections among attack, digits, spectrum, bounds, gradients"),
        ({"sections": "attack"}, "expected sections among"),
        ({"attack_radius": 0.0}, "expected attack_radius to be positive and finite, got 0.0"),
    ],
)
def test_options_are_checked(changes, message):
    with pytest.raises(ConfigError, match=message):
        AuditOptions(**changes)


def failed(cause, *amplifications):
    blocks = tuple(
        BlockSummary(f"bijection.blocks[{i}] (Block)", 0.0, 0.0, 0.0, 0.0, 0.0, each, 0)
        for i, each in enumerate(amplifications)
    )
    good = audit(Shift(), torch.rand(12, 2), options=options())
    one = good.sets[0]
    return SetRecord(
        "uniform", "out-of-distribution", "", True, "failed", 12, data=one.data, latent=one.latent, cause=cause,
        blocks=blocks,
    ), good  # fmt: skip


def test_remedies_follow_the_cause():
    assert advice_for(*failed(ROUNDING, 2.0, 1e5)) == (BOUND_SCALES, IN_FLOAT64)
    assert advice_for(*failed(EXPLOSION, 2.0, 3.0)) == (FEWER, NOT_FLOAT64)


def test_products_in_tf32_are_to_be_switched_off_first():
    one, good = failed(ROUNDING, 2.0)
    assert good.model["tf32"] == []
    on_gpu = replace(good, model=good.model | {"tf32": ["torch.backends.cudnn.allow_tf32"]})
    first, *others = advice_for(one, on_gpu)
    assert "torch.backends.cudnn.allow_tf32 = False" in first
    assert tuple(others) == advice_for(one, good)


def test_a_block_whose_inverse_has_no_bound_is_blamed_for_little():
    one, good = failed(ROUNDING, 2.0)
    block = BlockBound("bijection.blocks[0] (Block)", 1.0, math.inf, "infinite")
    unbounded = replace(good, bounds=BoundsSummary(1.0, math.inf, (1.0, 1.0), 1.0, math.inf, (block,)))
    assert advice_for(one, good)[0] == FEWER
    assert advice_for(one, unbounded)[0] == BOUND_SCALES


def test_advice_is_given_once_with_all_whom_it_concerns():
    record = audit(flow_of(Drift(1.01)), torch.rand(12, 2), options=options())
    ((text, subjects),) = remedies(record)
    assert "check_bijection" in text
    assert subjects == ("test", "latents T=1")


def test_a_bare_bijection_has_all_sections():
    class Affine(Bijection):
        def forward(self, x, condition=None):
            return 2 * x, x.new_full((len(x),), 2 * math.log(2))

        def inverse(self, y, condition=None):
            return y / 2, y.new_full((len(y),), -2 * math.log(2))

    record = audit(Affine(), torch.rand(12, 2), options=AuditOptions(**LITTLE))
    assert [each.status for each in record.sections] == [DONE] * 5 + [UNSUITED]
    assert record.passed
