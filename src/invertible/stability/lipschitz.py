"""Certified Lipschitz bounds of a map and of its inverse, block by block and composed."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator

from torch import nn

from invertible.bijection import Bijection, Domain, Inverted, LipschitzBounds
from invertible.chain import Chain
from invertible.errors import ConfigError
from invertible.flow import Flow
from invertible.modes import eval_mode
from invertible.norms import additive_norms, ode_log_norms, ode_norms, outward, remembered, residual_norms
from invertible.norms import unbounded_layers as unbounded
from invertible.partition import Partition
from invertible.stability.bound_calls import Call, watch
from invertible.stability.lipschitz_table import BlockBounds, LipschitzTable
from invertible.stability.undisturbed import undisturbed

TRIAL = Domain(1.0, 1.0)


def lipschitz_bounds(bijection: nn.Module, domain: Domain | None = None) -> LipschitzTable:
    """Certified upper bounds of Lip(f) and Lip(f^-1) in the 2-norm, composed from those of the blocks.

    Lip(f_K o ... o f_1) <= prod_k Lip(f_k), and likewise for the inverses (Behrmann et al. 2021, table 1 and appendix).
    On a domain each block's bounds hold on the boxes that reach it: forward on what f maps the box of inputs to, back
    on what f^-1 maps the box of outputs to. Blocks are found by watching which ones are asked for their bounds, so
    containers and blocks of one's own take part by their `bounds` and `image`; a conditioner of one's own by a method
    `lipschitz_bound() -> float`.

    The bounds are those of the function that the parameters define, in exact arithmetic, for every condition, and in
    the mode in which the model is (batch norm and dropout have none in training mode). Good for: knowing that an
    inverse cannot explode anywhere; comparing blocks; finding the one without a bound. Not for: predicting the error
    of one sample, for products over depth are larger than what happens by orders of magnitude.

    Args:
        bijection: a `Bijection`, a `Flow`, or anything with a `bijection`.
        domain: the boxes, or balls (`invertible.ball.Ball`), on which the bounds must hold; the whole space if `None`.

    Returns:
        `LipschitzBounds` with the blocks' bounds; `math.inf`, with a reason, where no bound exists or none is known.

    Raises:
        ConfigError: if `bijection` is none.

    Example:
        >>> print(lipschitz_bounds(flow, domain=Domain(x=3, y=5)))
    """
    found = bijection if isinstance(bijection, Bijection) else getattr(bijection, "bijection", None)
    if not isinstance(found, Bijection):
        raise ConfigError(
            f"lipschitz_bounds: expected a Bijection or a model with an attribute bijection, got "
            f"{type(bijection).__name__}. Wrap an object of another library with invertible.adapt."
        )
    modes = [(module, module.training) for module in found.modules()]
    with undisturbed(found), remembered():
        # Batch norm and dropout of a training model have no bound: the mode is part of the function.
        for module, training in modes:
            module.training = training
        tree = watch(found, domain)
        blocks = tuple(_rows(tree, _paths(found), "", LipschitzBounds(1.0, 1.0), turn=False))
    total = tree.bounds
    name = type(bijection if isinstance(bijection, Flow) else found).__name__
    return LipschitzTable(total.forward, total.inverse, blocks, domain, name)


def additive_bounds(lipschitz: float, *, exact: bool = True) -> LipschitzBounds:
    """Of an additive coupling whose t has the constant tau: (tau + sqrt(tau^2 + 4))/2, or the sum 1 + tau."""
    return LipschitzBounds(*additive_norms(lipschitz, exact=exact))


def residual_bounds(lipschitz: float) -> LipschitzBounds:
    """Of y = x + g(x), Lip(g) = L < 1: 1 + L and 1/(1 - L); see `norms.residual_norms`."""
    return LipschitzBounds(*residual_norms(lipschitz))


def ode_bounds(
    lipschitz: float | None = None,
    time: float | list[float] = 1.0,
    *,
    largest: float | list[float] | None = None,
    smallest: float | list[float] | None = None,
) -> LipschitzBounds:
    """Of the flow of x' = v(t, x) over a time: the smaller of the bounds by norm and by logarithmic norms.

    Args:
        lipschitz: L >= Lip(v): e^(L T) both ways.
        time: T, or the lengths of spans with a logarithmic norm each.
        largest: at least the largest eigenvalue of (J_v + J_v^T)/2: e^(integral of it) forward.
        smallest: at most the smallest one: e^(-integral of it) back.

    Raises:
        ConfigError: if neither `lipschitz` nor both others are given, or a value is out of its range.

    Example:
        >>> ode_bounds(3.0).forward, ode_bounds(largest=-0.5, smallest=-3.0).forward  # 20.09 and 0.61
    """
    if lipschitz is None and (largest is None or smallest is None):
        raise ConfigError("ode_bounds: expected lipschitz, or largest and smallest, got neither.")
    forward = inverse = math.inf
    if lipschitz is not None:
        forward, inverse = ode_norms(lipschitz, outward(sum(time)) if isinstance(time, list) else time)
    if largest is not None and smallest is not None:
        by_sign = ode_log_norms(largest, smallest, time)
        forward, inverse = min(forward, by_sign[0]), min(inverse, by_sign[1])
    return LipschitzBounds(forward, inverse)


def _rows(
    call: Call, paths: dict[nn.Module, list[str]], above: str, before: LipschitzBounds, *, turn: bool
) -> Iterator[BlockBounds]:
    """Rows of the blocks inside a call, in the order of the data; `turn` if it passes them the other way round."""
    # A block that stands in several places is the one inside the container that asked it.
    path = next((each for each in paths[call.block] if each.startswith(above)), paths[call.block][0])
    if not call.inner:
        bounds = call.bounds.swapped if turn else call.bounds
        domain = call.domain.turned if turn and call.domain is not None else call.domain
        reason = "" if math.isfinite(bounds.forward) and math.isfinite(bounds.inverse) else _reason(call)
        kind = type(call.block).__name__
        yield BlockBounds(f"{path} ({kind})", kind, domain, bounds, bounds @ before, reason)
        return
    turn = turn is not isinstance(call.block, Inverted)
    follows_on = isinstance(call.block, Chain | Inverted)
    for inner in reversed(call.inner) if turn else call.inner:
        yield from _rows(inner, paths, path, before, turn=turn)
        if follows_on:
            before = (inner.bounds.swapped if turn else inner.bounds) @ before


def _reason(call: Call) -> str:
    block, domain = call.block, call.domain
    layers = [
        reason
        for child in block.children()
        # A matrix that the map itself is made of has bounds of its own; a cut has no norm to be missing.
        if not hasattr(child, "bounds") and not isinstance(child, Partition)
        for reason in unbounded(child)
    ]
    if layers:
        return "; ".join(dict.fromkeys(layers))
    if type(block).bounds is Bijection.bounds:
        return f"{type(block).__name__} declares no bounds: define bounds(domain)"
    if block.training and _finite_in_eval(block, domain):
        return "no bound in training mode: call eval()"
    on_a_box = type(block).bounds(block, TRIAL)
    local = math.isfinite(on_a_box.forward) and math.isfinite(on_a_box.inverse)
    if domain is None:
        helps = "infinite on the whole space; pass domain=Domain(x=3, y=5)"
        return helps if local else "no finite bound exists or is known"
    lost = [
        f"its box of {side}" for side, radius in (("inputs", domain.x), ("outputs", domain.y)) if radius == math.inf
    ]
    if local and lost:
        return f"{' and '.join(lost)} is infinite: a block on the way has no image, or the domain is"
    why = ": its condition may be of any size" if block.condition_features else ""
    return f"no finite bound exists or is known on the boxes that reach it{why}"


def _finite_in_eval(block: Bijection, domain: Domain | None) -> bool:
    with eval_mode(block):
        bounds = type(block).bounds(block, domain)
    return math.isfinite(bounds.forward) and math.isfinite(bounds.inverse)


def _paths(bijection: Bijection) -> dict[nn.Module, list[str]]:
    """Every module's paths in Python's notation."""
    found: dict[nn.Module, list[str]] = {}
    for name, module in bijection.named_modules(remove_duplicate=False):
        path = re.sub(r"\.(\d+)(?=\.|$)", r"[\1]", ".".join(part for part in ("bijection", name) if part))
        found.setdefault(module, []).append(path)
    return found
