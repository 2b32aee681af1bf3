import json
import math

import pytest
import torch
from torch import nn

from invertible.chain import Chain
from invertible.distributions import ConditionalNormal, StandardNormal
from invertible.errors import ConfigError, DataError, DomainError, ShapeError
from invertible.flow import Flow
from invertible.stability import AuditOptions, audit, findings, from_dict, headline, out_of_distribution, to_dict
from invertible.stability.records import IN_DISTRIBUTION, LATENT, REFUSED
from tests.stability.maps import (
    Conditioned,
    Drift,
    GivesUp,
    Hole,
    Remembers,
    SameLogDet,
    Shift,
    Squash,
    UnitBox,
)

FEW = AuditOptions(samples=40, traced=16, sections=())
# Everything, on little.
QUICK = AuditOptions(samples=20, traced=4, ood=False, temperatures=(1.0,))
OOD = ["uniform", "gaussian", "rademacher", "constant", "inverted", "shuffled", "scaled x3", "scaled x10"]
LATENTS = ["latents T=0.7", "latents T=1", "latents T=2", "latents T=5"]


def flow_of(*blocks, shape=(2,), **options):
    return Flow(Chain(*blocks), StandardNormal(shape), **options)


def sets_of(record):
    return {one.name: one for one in record.sets}


def test_a_good_inverse_passes_on_every_set():
    record = audit(flow_of(Shift(), Shift()), torch.rand(60, 2), train=torch.rand(50, 2), options=FEW)
    assert [one.name for one in record.sets] == ["train", "test", *OOD, *LATENTS]
    assert record.passed
    assert all(one.status == "passed" and one.samples == 40 for one in record.sets)
    assert not findings(record)
    assert headline(record).startswith("The inverse held on all 14 sets: worst relative error")
    assert record.control_note == ""
    assert record.model["parameters"] == 0


def test_amplified_rounding_is_told_from_a_wrong_inverse():
    x = 0.1 * torch.rand(60, 2)
    record = audit(flow_of(Shift(), Shift().inverted, Squash(40.0)), x, options=FEW)
    sets = sets_of(record)
    assert sets["test"].status == "passed"
    assert sets["scaled x10"].status == "failed"
    assert sets["scaled x10"].cause == "rounding"
    assert sets["scaled x10"].control.worst < 1e-6
    assert "(Squash)" in sets["scaled x10"].worst_block.path
    text = next(each.text for each in findings(record) if each.subject == "scaled x10")
    assert "inaccurate on scaled x10" in text
    assert "(Squash) multiplies the error by" in text
    assert "rounding, amplified" in text
    assert not record.passed
    assert "scaled x10" in headline(record)


def test_a_wrong_inverse_is_called_wrong():
    record = audit(flow_of(Shift(), Drift(1.01), Shift()), torch.rand(40, 2), options=FEW)
    test = sets_of(record)["test"]
    assert (test.status, test.cause) == ("failed", "wrong inverse")
    assert test.worst_block.path == "bijection.blocks[1] (Drift)"
    text = findings(record)[0].text
    assert "The worst block is bijection.blocks[1] (Drift), wrong by 1.0e-02 on its own" in text
    assert "the inverse is wrong, or its iteration stops too early" in text


def test_an_approximate_inverse_within_the_tolerance_is_noted():
    record = audit(flow_of(Shift(), Drift(1 + 1e-4)), torch.rand(40, 2), options=FEW)
    assert record.passed
    notes = findings(record)
    assert notes
    assert all(each.level == "note" and "is not rounding" in each.text for each in notes)


def test_log_determinants_that_do_not_cancel_fail():
    record = audit(flow_of(SameLogDet()), torch.rand(40, 2), options=FEW)
    test = sets_of(record)["test"]
    assert (test.status, test.cause) == ("failed", "wrong log-determinant")
    assert test.data.worst < 1e-6
    assert "disagree on test, by up to 1.4e+00 per dimension" in findings(record)[0].text


def test_what_overflows_in_float64_too_is_an_explosion():
    record = audit(flow_of(Squash(5000.0)), torch.rand(40, 2) + 0.5, options=FEW)
    test = sets_of(record)["test"]
    assert test.cause == "explosion"
    assert test.first_loss == "bijection.blocks[0] (Squash) while decoding"
    assert "Float64 loses the 16 worst as well" in findings(record)[0].text


def test_lost_samples_are_counted():
    x = torch.rand(40, 2)
    x[:7] += 2
    test = sets_of(audit(flow_of(Hole()), x, options=FEW))["test"]
    assert (test.non_finite, test.data.non_finite, test.data.raised) == (7, 7, 0)
    assert test.data.worst == math.inf
    assert test.data.worst_sample < 7
    assert sorted(test.data.errors)[-7:] == [math.inf] * 7


def test_errors_of_the_model_are_counted_as_losses():
    x = torch.rand(40, 2)
    x[0] += 3
    record = audit(flow_of(GivesUp()), x, options=FEW)
    test = sets_of(record)["test"]
    assert (test.non_finite, test.data.raised) == (1, 1)
    assert "1 of 40 samples does not come back finite (1 raised an error)" in findings(record)[0].text
    assert "did not converge" in test.message


def test_a_refused_set_is_no_failure():
    record = audit(flow_of(UnitBox()), torch.rand(40, 1, 4, 4), options=FEW)
    sets = sets_of(record)
    assert sets["scaled x10"].status == "refused"
    assert sets["scaled x10"].data is None
    assert "refused" in next(each.text for each in findings(record) if each.subject == "scaled x10")
    assert sets["uniform"].status == "passed"


def test_a_model_that_refuses_its_own_data_fails():
    record = audit(
        flow_of(UnitBox()), torch.rand(40, 2) + 5, options=AuditOptions(samples=40, temperatures=(), sections=())
    )
    assert {one.status for one in record.sets} >= {REFUSED}
    assert not record.passed
    assert "refuses its own data" in headline(record)


def test_samples_refused_in_part():
    x = torch.rand(40, 2)
    x[3] = -1
    options = AuditOptions(samples=40, ood=False, temperatures=(), sections=())
    record = audit(flow_of(UnitBox()), x, options=options)
    (test,) = record.sets
    assert (test.status, test.refused, len(test.data.errors)) == ("passed", 1, 39)
    assert "1 of 40 samples of test lie outside" in findings(record)[0].text


def test_strict_decides_whether_strangers_count():
    x = 0.1 * torch.rand(60, 2)
    lenient = audit(
        flow_of(Squash(40.0)), x, options=AuditOptions(samples=40, strict=False, temperatures=(), sections=())
    )
    assert lenient.passed
    assert {each.level for each in findings(lenient)} == {"warning"}
    assert "held on the required sets; it did not on" in headline(lenient)
    assert not audit(flow_of(Squash(40.0)), x, options=AuditOptions(samples=40, temperatures=(), sections=())).passed


def test_the_model_and_the_random_numbers_are_left_alone():
    flow, x = flow_of(Remembers(), Shift()), torch.rand(40, 2)
    flow.bijection.blocks[0].eval()
    modes = [module.training for module in flow.modules()]
    buffer = flow.bijection.blocks[0].calls
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    audit(flow, x, options=FEW)
    assert torch.equal(torch.rand(3), expected)
    assert [module.training for module in flow.modules()] == modes
    assert flow.bijection.blocks[0].calls is buffer
    assert all(not value.any() for value in flow.state_dict().values())


def test_the_model_is_left_alone_when_the_audit_stops():
    flow = flow_of(Remembers())
    with pytest.raises(ShapeError):
        audit(flow, torch.rand(40, 2), other=torch.rand(5, 3), options=FEW)
    assert flow.training
    assert not flow.bijection.blocks[0].calls.any()


def test_an_audit_repeats_itself():
    flow, x = flow_of(Squash(5.0)), torch.rand(60, 2)
    first, second = (to_dict(audit(flow, x, options=QUICK)) for _ in range(2))
    for name in ("sets", "attack", "digits", "spectrum", "bounds", "gradients"):
        assert first[name] == second[name]
    assert to_dict(audit(flow, x, generator=1, options=FEW))["sets"] != first["sets"]


def test_integers_are_dequantised_with_the_flows_levels():
    x = torch.randint(0, 17, (40, 1, 4, 4), dtype=torch.uint8)
    record = audit(flow_of(UnitBox(), shape=(1, 4, 4), levels=17), x, train=x, options=FEW)
    assert sets_of(record)["test"].status == "passed"
    assert record.sets[0].examples.start.shape == (4, 1, 4, 4)
    with pytest.raises(ShapeError, match="names no grey levels"):
        audit(flow_of(Shift(), shape=(1, 4, 4)), x, options=FEW)


def test_conditions_follow_their_samples():
    x, condition = torch.rand(50, 3), torch.rand(50, 3)
    flow = Flow(Conditioned(3), StandardNormal((3,)))
    record = audit(flow, x, condition=condition, train=(x, condition), other=torch.rand(7, 3), options=FEW)
    assert record.passed
    assert sets_of(record)["other"].samples == 7
    with pytest.raises(ShapeError, match="expected a condition of 50 rows for test, got 3"):
        audit(flow, x, condition=condition[:3], options=FEW)


def test_labels_become_one_hot_and_reach_the_base_alone():
    flow = Flow(Shift(), ConditionalNormal((2,), 4), classes=4)
    assert audit(flow, torch.rand(40, 2), condition=torch.arange(40) % 4, options=FEW).passed


def test_a_bare_bijection_is_audited_with_normal_latents():
    record = audit(Chain(Shift()), torch.rand(40, 2), options=FEW)
    latents = [one for one in record.sets if one.kind == LATENT]
    assert [one.name for one in latents] == LATENTS
    assert record.passed


def test_points_of_a_plane_are_kept_whole_and_long_vectors_are_not():
    assert sets_of(audit(Shift(), torch.rand(40, 2), options=FEW))["test"].examples.start.shape == (40, 2)
    assert sets_of(audit(Shift(), torch.rand(40, 3), options=FEW))["test"].examples is None


def test_control_notes():
    x = torch.rand(40, 2)
    assert (
        audit(flow_of(Drift()), x, options=AuditOptions(samples=9, control=False, sections=())).control_note
        == "switched off"
    )
    assert "float64 already" in audit(flow_of(Drift()).double(), x.double(), options=FEW).control_note

    class Single(Drift):
        def forward(self, x, condition=None):
            return (x.unsqueeze(1) @ torch.eye(2)).squeeze(1), x.new_zeros(len(x))

    record = audit(flow_of(Single()), x, options=FEW)
    assert "does not run in float64" in record.control_note
    assert record.sets[0].control is None
    assert "no control in float64" in findings(record)[0].text


def test_the_record_survives_strict_json():
    x = torch.rand(40, 2)
    x[:7] += 2
    record = audit(flow_of(Hole(), Squash(80.0)), x, options=FEW)
    text = json.dumps(to_dict(record), allow_nan=False)
    again = from_dict(json.loads(text))
    assert json.dumps(to_dict(again), allow_nan=False) == text
    assert findings(again) == findings(record)
    assert again.passed is record.passed is False
    assert sets_of(again)["test"].data == sets_of(record)["test"].data
    assert repr(sets_of(again)["test"].blocks) == repr(sets_of(record)["test"].blocks)
    start, other = sets_of(again)["test"].examples, sets_of(record)["test"].examples
    assert torch.equal(start.start, other.start)
    assert torch.equal(start.back.isnan(), other.back.isnan())


def test_records_that_cannot_be_read():
    with pytest.raises(DataError, match="expected a record of schema version 2, got None"):
        from_dict({})
    with pytest.raises(DataError, match="expected a record of schema version 2, got 1. Run the audit again"):
        from_dict({"schema_version": 1})
    with pytest.raises(DataError, match="cannot be read: KeyError"):
        from_dict({"schema_version": 2})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"samples": 0}, "AuditOptions: expected samples of at least 1, got 0"),
        ({"traced": 0}, "expected traced of at least 1"),
        ({"tolerance": -1.0}, "expected tolerance to be positive and finite, got -1.0"),
        ({"tolerance": math.nan}, "expected tolerance to be positive and finite, got nan"),
        ({"temperatures": (1.0, 0.0)}, r"expected positive temperatures, got \(1.0, 0.0\)"),
    ],
)
def test_options_are_checked(options, message):
    with pytest.raises(ConfigError, match=message):
        AuditOptions(**options)


@pytest.mark.parametrize(
    ("flow", "x", "error", "message"),
    [
        (
            nn.Linear(2, 2),
            torch.rand(3, 2),
            ConfigError,
            "audit: expected a Flow, a Bijection or an object with a bijection, got Linear",
        ),
        (
            Shift(),
            torch.rand(0, 2),
            ShapeError,
            r"audit: expected test data of shape \(batch, ...\), not empty, got \(0, 2\)",
        ),
        (Shift(), torch.tensor([[math.nan, 0]]), DomainError, "expected x to be finite"),
    ],
)
def test_errors(flow, x, error, message):
    with pytest.raises(error, match=message):
        audit(flow, x)


def test_kinds_and_requirements():
    record = audit(Shift(), torch.rand(9, 2), options=AuditOptions(samples=9, strict=False, sections=()))
    required = {one.name for one in record.sets if one.required}
    assert required == {"test", "latents T=0.7", "latents T=1"}
    assert {one.kind for one in record.sets if one.name == "test"} == {IN_DISTRIBUTION}


def test_strangers_are_those_of_out_of_distribution():
    assert list(out_of_distribution(torch.rand(3, 2))) == OOD
