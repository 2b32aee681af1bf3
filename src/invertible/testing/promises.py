"""Laws about what a block promises: Lipschitz bounds and claims."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from invertible.bijection import Domain, LipschitzBounds
from invertible.errors import choose
from invertible.testing.report import Measurement, worst
from invertible.testing.subject import DENSE, Subject, norm, singular_values


def bounds(subject: Subject) -> Iterator[Measurement]:
    """Singular values of the Jacobian against the declared bounds, outputs against the declared image."""
    law = "bounds"
    x, y = (float(value.abs().max()) for value in (subject.x, subject.y))
    domain = Domain(x, y)
    image = subject.block.image(domain)
    boxes = (("f(box) within image", subject.y, image.y), ("f^-1(box) within image", subject.x, image.x))
    for what, value, radius in boxes:
        reach = value.abs().reshape(len(value), -1).amax(1).double()
        yield _ratio(subject, what, reach, torch.full_like(reach, radius))
    if subject.dimensions > DENSE:
        reason = f"skipped: {subject.dimensions} dimensions, dense Jacobians up to {DENSE}"
        yield Measurement(law, subject.dtype, "singular values", torch.nan, torch.nan, skipped=reason)
        return
    singular = singular_values(subject.jacobian(subject.x, subject.condition))
    for where, declared in (("", subject.block.bounds()), (" on a domain", subject.block.bounds(domain))):
        yield from _within(subject, where, singular, declared)


def _within(subject: Subject, where: str, singular: Tensor, declared: LipschitzBounds) -> Iterator[Measurement]:
    largest, smallest = singular[:, 0], singular[:, -1]
    yield _ratio(subject, f"sigma_max/bound{where}", largest, torch.full_like(largest, declared.forward))
    yield _ratio(subject, f"1/sigma_min/bound{where}", 1 / smallest, torch.full_like(largest, declared.inverse))


def _ratio(subject: Subject, what: str, measured: Tensor, declared: Tensor) -> Measurement:
    """A figure over its bound, at most 1 and rounding; 0/0 and x/inf are 0."""
    ratio = torch.where(measured <= 0, 0.0, measured / declared)
    return worst("bounds", subject.dtype, what, ratio, 1 + subject.tolerance_at_x)


def claims(subject: Subject, names: Sequence[str]) -> Iterator[Measurement]:
    """What the block itself claims (`volume_preserving`, `exact`), and the claims given by name."""
    block = subject.block
    declared = {"volume-preserving": block.volume_preserving, "exact": block.exact}
    for name in dict.fromkeys((*(name for name, claimed in declared.items() if claimed), *names)):
        yield from choose("check_bijection", "claims", name, CLAIMS)(subject)


def _volume_preserving(subject: Subject) -> Iterator[Measurement]:
    _, back = subject.inverse(subject.y, subject.condition)
    size = torch.maximum(subject.log_det.abs(), back.abs())
    yield worst("claims", subject.dtype, "volume-preserving: log_det = 0", size, torch.zeros_like(size))


def _exact(subject: Subject) -> Iterator[Measurement]:
    back, _ = subject.inverse(subject.y, subject.condition)
    again, _ = subject.forward(back, subject.condition)
    error = norm(back - subject.x) + norm(again - subject.y)
    yield worst("claims", subject.dtype, "exact: round trips to the bit", error, torch.zeros_like(error))


def _isometry(subject: Subject) -> Iterator[Measurement]:
    if subject.dimensions > DENSE:
        reason = f"skipped: {subject.dimensions} dimensions, dense Jacobians up to {DENSE}"
        yield Measurement("claims", subject.dtype, "isometry", torch.nan, torch.nan, skipped=reason)
        return
    singular = singular_values(subject.jacobian(subject.x, subject.condition))
    error = (singular - 1).abs().amax(1)
    yield worst("claims", subject.dtype, "isometry: singular values = 1", error, subject.tolerance_at_x)


CLAIMS = {"volume-preserving": _volume_preserving, "exact": _exact, "isometry": _isometry}
