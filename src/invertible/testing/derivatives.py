"""Laws about derivatives: gradients against finite differences, `reconstruct` against plain autograd."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from invertible.testing.report import Measurement, broken, worst
from invertible.testing.subject import MARGIN, Subject, norm, scale

# A difference whose own error is below this tells a wrong derivative from a right one.
SHARP = 1e-4

Direction = Callable[[Tensor, Tensor | None], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Contraction:
    """Random numbers that make one function of a sample's outputs: s = <u, y> + w log_det."""

    u: Tensor
    w: Tensor

    @classmethod
    def draw(cls, like: Tensor, generator: torch.Generator) -> "Contraction":
        """Normal numbers for outputs like `like`; w is kept away from zero."""
        u = _normal(like, generator)
        return cls(u, 1 + _normal(like.reshape(len(like), -1)[:, 0], generator).abs())

    def __call__(self, y: Tensor, log_det: Tensor) -> Tensor:
        """s of every sample, (B,)."""
        return (self.u * y).reshape(len(y), -1).sum(1) + self.w * log_det


def gradients(subject: Subject, generator: torch.Generator) -> Iterator[Measurement]:
    """Directional derivatives of y and log_det, and of the inverse's where it has a graph, against differences."""
    directions = (("forward", subject.x, subject.y), ("inverse", subject.y, subject.x))
    for name, value, result in directions:
        run = getattr(subject.block, name)
        if name == "inverse" and not _has_graph(subject, run, value):
            continue
        contraction = Contraction.draw(result, generator)
        yield from _gradients(subject, name, value, contraction, generator)


def _has_graph(subject: Subject, run: Direction, value: Tensor) -> bool:
    with subject.world(grad=True):
        return run(value.clone().requires_grad_(), subject.condition)[0].requires_grad


def _gradients(
    subject: Subject, name: str, value: Tensor, contraction: Contraction, generator: torch.Generator
) -> Iterator[Measurement]:
    run = getattr(subject.block, name)
    leaves = _leaves(subject, value)
    with subject.world(grad=True):
        sums = contraction(*run(leaves["x"], leaves.get("condition"))).sum()
    groups = {"x": ["x"], "condition": ["condition"], "parameters": [key for key in leaves if "." in key]}
    analytic = dict(zip(leaves, _grad(sums, list(leaves.values())), strict=True))
    for group, keys in groups.items():
        chosen = {key: leaves[key] for key in keys if key in leaves}
        if not chosen:
            continue
        steps = {key: _normal(leaf, generator) for key, leaf in chosen.items()}
        by_sample = group != "parameters"
        found = sum((_contract(analytic[key] * step, by_sample) for key, step in steps.items()), torch.zeros(()))

        def shifted(h: float, chosen: dict[str, Tensor] = chosen, steps: dict[str, Tensor] = steps) -> Tensor:
            with torch.no_grad():
                moved = {key: leaf + h * steps[key] for key, leaf in chosen.items()}
            return _evaluate(subject, run, leaves | moved, contraction)

        what = f"{name}: d/d{group} = central difference"
        yield _compare(subject, what, found, shifted, by_sample=by_sample)


def _compare(
    subject: Subject, what: str, found: Tensor, shifted: Callable[[float], Tensor], *, by_sample: bool
) -> Measurement:
    """Against (s(+h) - s(-h))/2h, whose error of order h^2 is estimated by that of 2h.

    A kink (ReLU) within the step spoils a difference, which grows rarer as the step shrinks: a derivative is wrong
    only if all of three steps say so.
    """
    eps = torch.finfo(torch.float64).eps
    size = scale(subject.x, subject.y, subject.log_det[:, None])
    found_by: list[Measurement] = []
    for h in (eps ** (1 / 3), eps ** (1 / 3) / 16, eps ** (1 / 3) / 256):
        near = _difference(shifted, h, by_sample=by_sample)
        far = _difference(shifted, 2 * h, by_sample=by_sample)
        rounding = subject.tolerance_at_x if by_sample else subject.tolerance_at_x.max()[None]
        magnitude = (size if by_sample else size.sum()[None]) + found.abs()
        tolerance = rounding.clamp_min(MARGIN * eps) / h + (near - far).abs() / magnitude
        now = worst("gradients", subject.dtype, what, (found - near).abs() / magnitude, tolerance)
        found_by.append(now if by_sample else replace(now, sample=None))
        if now.passed and now.tolerance < SHARP:
            break
    passed = [each for each in found_by if each.passed]
    return min(passed or found_by, key=lambda each: each.tolerance)


def _difference(shifted: Callable[[float], Tensor], h: float, *, by_sample: bool) -> Tensor:
    difference = (shifted(h) - shifted(-h)) / (2 * h)
    return difference if by_sample else difference.sum()[None]


def _evaluate(subject: Subject, run: Direction, leaves: dict[str, Tensor], contraction: Contraction) -> Tensor:
    """s at other inputs and parameters; the parameters are put back."""
    parameters = _parameters(subject)
    before = {key: parameter.detach().clone() for key, parameter in parameters.items()}
    try:
        with subject.world():
            for key, parameter in parameters.items():
                parameter.copy_(leaves[key])
            return contraction(*run(leaves["x"].detach().clone(), leaves.get("condition")))
    finally:
        with torch.no_grad():
            for key, parameter in parameters.items():
                parameter.copy_(before[key])


def reconstruct(subject: Subject, generator: torch.Generator) -> Iterator[Measurement]:
    """x recovered; y, log_det and all gradients as plain autograd has them at the recovered x."""
    law, contraction = "reconstruct", Contraction.draw(subject.y, generator)
    condition = None if subject.condition is None else subject.condition.clone().requires_grad_()
    output = subject.y.clone()
    with subject.world(grad=True):
        rebuilt = subject.block.reconstruct(output, condition)
    if not torch.equal(output, subject.y):
        raise broken(subject.name, law, subject.dtype, "y unchanged", "other values after the call")
    if not (rebuilt.x.is_leaf and rebuilt.x.requires_grad):
        raise broken(subject.name, law, subject.dtype, "x to be a leaf that requires grad", "another tensor")
    tolerance = subject.tolerance_at_x
    error = norm(rebuilt.x - subject.x) / scale(subject.x, subject.y)
    yield worst(law, subject.dtype, "x recovered", error, tolerance)

    leaves = _leaves(subject, rebuilt.x.detach())
    with subject.world(grad=True):
        y, log_det = subject.block(leaves["x"], leaves.get("condition"))
    yield worst(law, subject.dtype, "y rebuilt", norm(rebuilt.y - y) / scale(leaves["x"], y), tolerance)
    error = norm(rebuilt.log_det - log_det) / scale(leaves["x"], y, log_det[:, None])
    yield worst(law, subject.dtype, "log_det rebuilt", error, tolerance)

    expected = _grad(contraction(y, log_det).sum(), list(leaves.values()))
    own = leaves | {"x": rebuilt.x} | ({} if condition is None else {"condition": condition})
    found = _grad(contraction(rebuilt.y, rebuilt.log_det).sum(), list(own.values()))
    total = scale(leaves["x"], y, log_det[:, None])
    parameters = []
    for key, a, b in zip(leaves, expected, found, strict=True):
        what = f"d/d{key.removeprefix('.')} rebuilt"
        if key in ("x", "condition"):
            yield worst(law, subject.dtype, what, norm(a - b) / (total + norm(a)), tolerance)
            continue
        a, b = a.reshape(1, -1), b.reshape(1, -1)
        error = norm(a - b) / (total.sum() + norm(a))
        parameters.append(replace(worst(law, subject.dtype, what, error, tolerance.max()), sample=None))
    if parameters:
        yield max(parameters, key=lambda each: each.measured)


def _parameters(subject: Subject) -> dict[str, Tensor]:
    # A dot in front tells a parameter called "x" from the input.
    return {f".{name}": p for name, p in subject.block.named_parameters() if p.requires_grad}


def _leaves(subject: Subject, x: Tensor) -> dict[str, Tensor]:
    """What gradients are taken with respect to."""
    leaves = {"x": x.detach().clone().requires_grad_()}
    if subject.condition is not None:
        leaves["condition"] = subject.condition.clone().requires_grad_()
    return leaves | _parameters(subject)


def _grad(output: Tensor, leaves: list[Tensor]) -> list[Tensor]:
    if not output.requires_grad:
        return [torch.zeros_like(leaf) for leaf in leaves]
    return list(torch.autograd.grad(output, leaves, allow_unused=True, materialize_grads=True))


def _contract(product: Tensor, by_sample: bool) -> Tensor:  # noqa: FBT001
    return product.reshape(len(product), -1).sum(1) if by_sample else product.sum()[None]


def _normal(like: Tensor, generator: torch.Generator) -> Tensor:
    noise = torch.randn(like.shape, generator=generator, dtype=like.dtype, device=generator.device)
    return noise.to(like.device)
