"""Claims about the residual and the coupling form, judged from blocks and networks of both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from invertible.reproduce.experiment import Claim, Found
from invertible.reproduce.form_measures import COUPLING, RESIDUAL
from invertible.reproduce.means import below, difference
from invertible.reproduce.wording import number, over_seeds

INVERSES, NETWORK = "inverses", "network"
FORMS = {RESIDUAL: "y = x + F(x)", COUPLING: "coupling"}
SOLVED = f"{RESIDUAL}, library"
PARAMETERS = 0.01
# Relative errors up to which an inverse is held, and from which it is another point.
HELD, LOST = 1e-4, 1e-2
# Evaluations of F that count as many: at the constant 1/2 a contraction gains one bit each, and float32 has 24.
MANY = 5.0


def judged(found: Sequence[Found]) -> list[Claim]:
    """What each form inverts, what it costs, how it classifies."""
    return [_coupling_claim(found), *_residual_claims(found), _cost_claim(found), *_network_claims(found)]


def constants(found: Sequence[Found]) -> list[float]:
    """Lipschitz constants, in order."""
    return next(one.config["constants"] for one in found if one.config["kind"] == INVERSES)


def mean(values: Sequence[float]) -> float:
    """The mean."""
    return sum(values) / len(values)


def each(rows: Sequence[Mapping[str, Any]], key: str) -> list[float]:
    """One figure of all rows."""
    return [row[key] for row in rows]


def rows(found: Sequence[Found], form: str, constant: float, *, worst: bool) -> list[Mapping[str, Any]]:
    """The blocks of a form, a constant and a kind of F, over all seeds."""
    return [
        row
        for one in found
        if one.config["kind"] == INVERSES
        for row in one.numbers["rows"]
        if (row["form"], row["constant"], row["worst"]) == (form, constant, worst)
    ]


def networks(found: Sequence[Found], form: str) -> list[Found]:
    """The runs of a form."""
    return [each for each in found if each.config["kind"] == NETWORK and each.config["form"] == form]


def numbers(found: Sequence[Found], form: str) -> list[Mapping[str, Any]]:
    """What the networks of a form measured."""
    return [each.numbers for each in networks(found, form)]


def values(found: Sequence[Found], form: str, key: str) -> list[float]:
    """One figure of the networks of a form."""
    return [each[key] for each in numbers(found, form)]


def accuracies(found: Sequence[Found], form: str) -> list[float]:
    """In percent."""
    return values(found, form, "accuracy")


def _coupling_claim(found: Sequence[Found]) -> Claim:
    blocks = [row for c in constants(found) for worst in (False, True) for row in rows(found, COUPLING, c, worst=worst)]
    errors, evaluations = each(blocks, "error"), set(each(blocks, "evaluations"))
    return Claim(
        "A coupling inverts any F, by one evaluation.",
        max(errors) <= HELD and evaluations == {1.0},
        f"worst relative error {number(max(errors))} over {len(blocks)} blocks with constants up to "
        f"{max(each(blocks, 'constant')):g}, by {', '.join(f'{count:g}' for count in sorted(evaluations))} evaluations "
        "of each F",
        f"at most {HELD:g}, by exactly 1",
    )


def _residual_claims(found: Sequence[Found]) -> list[Claim]:
    small, large = [c for c in constants(found) if c < 1], [c for c in constants(found) if c > 1]
    below_one = [row for c in small for worst in (False, True) for row in rows(found, SOLVED, c, worst=worst)]
    above = [row for c in large for row in rows(found, SOLVED, c, worst=True)]
    fewest = min(each(below_one, "evaluations"))
    return [
        Claim(
            "y = x + F(x) is inverted below a Lipschitz constant of 1, by many evaluations.",
            max(each(below_one, "error")) <= HELD and fewest >= MANY,
            f"worst relative error {number(max(each(below_one, 'error')))}, {number(fewest, 3)} to "
            f"{number(max(each(below_one, 'evaluations')), 3)} evaluations",
            f"at most {HELD:g}, by at least {MANY:g}",
        ),
        Claim(
            "Beyond 1 it need not have an inverse.",
            min(each(above, "error")) >= LOST,
            f"with the worst F, worst relative errors of {number(min(each(above, 'error')))} to "
            f"{number(max(each(above, 'error')))} from the constant {min(each(above, 'constant')):g} on",
            f"at least {LOST:g} at every constant above 1 and every seed",
        ),
    ]


def _cost_claim(found: Sequence[Found]) -> Claim:
    def counts(form: str, what: str) -> list[float]:
        return [one["evaluations"][what] for one in numbers(found, form)]

    there, saving = counts(COUPLING, "inverse"), counts(COUPLING, "memory-saving step")
    others, more = counts(RESIDUAL, "inverse"), counts(RESIDUAL, "memory-saving step")
    return Claim(
        "So it is in trained networks: the coupling's inverse costs a forward pass, that of y = x + F(x) many.",
        set(there) == {1.0} and set(saving) == {2.0} and min(others) >= MANY,
        f"evaluations of each F a sample: inverse {over_seeds(there)} against {over_seeds(others)}, memory-saving step "
        f"{over_seeds(saving)} against {over_seeds(more)}",
        f"exactly 1 and 2 against at least {MANY:g}",
    )


def _network_claims(found: Sequence[Found]) -> list[Claim]:
    errors = [error for form in FORMS for error in values(found, form, "error")]
    sizes = {form: networks(found, form)[0].numbers["parameters"] for form in FORMS}
    own, other = accuracies(found, COUPLING), accuracies(found, RESIDUAL)
    gap, limit = difference(own, other), below(own, other, one=100 / numbers(found, COUPLING)[0]["tested"])
    return [
        Claim(
            "Trained networks of both give every test image back.",
            max(errors) <= HELD,
            f"worst relative error {number(max(errors))} over {len(errors)} networks",
            f"at most {HELD:g}",
        ),
        Claim(
            "The coupling form classifies as well, of as many parameters.",
            gap >= -limit and abs(sizes[COUPLING] / sizes[RESIDUAL] - 1) <= PARAMETERS,
            f"difference of means {gap:+.2f} points over {len(own)} seeds; {sizes[COUPLING]:,} parameters against "
            f"{sizes[RESIDUAL]:,}",
            f"at least -{limit:.2f} points: two standard errors of the difference, at least one test image, at most "
            f"one point; parameters within {PARAMETERS:.0%}",
        ),
    ]
