"""Other libraries' flows behind our protocol, so that all of `stability` judges them as it judges ours.

A library is recognised by the names of an object's classes and never imported: an object can only be theirs where
the library is loaded already.
"""

from collections.abc import Callable
from typing import Any

from invertible.bijection import Bijection
from invertible.errors import ConfigError
from invertible.flow import Flow
from invertible.stability.adapters.callables import LogDet, adapt_callables
from invertible.stability.adapters.freia import adapt_freia
from invertible.stability.adapters.nflows import adapt_nflows
from invertible.stability.adapters.normflows import adapt_normflows
from invertible.stability.adapters.torch_distributions import adapt_torch
from invertible.stability.adapters.zuko import adapt_zuko

__all__ = ["adapt", "library_of"]

# By the package, or module, in which one of an object's classes is defined; the more special ones first.
ADAPTERS: dict[str, Callable[[Any, int | None], Bijection | Flow | None]] = {
    "nflows": adapt_nflows,
    "normflows": adapt_normflows,
    "zuko": adapt_zuko,
    "FrEIA": adapt_freia,
    "pyro": adapt_torch,
    "torch.distributions": adapt_torch,
}
SUPPORTED = (
    "flows, transforms and layers of nflows, normflows, zuko, FrEIA, torch.distributions and Pyro; a module with "
    "forward and inverse (or reverse)"
)


def adapt(
    obj: Any = None,  # noqa: ANN401
    *,
    condition_features: int | None = None,
    forward: Callable[..., Any] | str | None = None,
    inverse: Callable[..., Any] | str | None = None,
    log_det: LogDet = None,
) -> Bijection | Flow:
    """Another library's flow, transform or network as a `Flow` or a `Bijection` of this one.

    forward(x, condition) -> (y, log_det) maps data to latent and log_det is log|det dy/dx| of shape (B,), whatever
    direction, sign, shape and argument the other library has. Compositions become chains of their layers, and every
    layer bears the name of its class, so that `block_round_trips` and `audit` name it. Parameters are shared, nothing
    is copied, and the object stays as it is.

    - **nflows**: transforms; flows, with their embedding net and base. Multi-scale outputs are flattened, as there.
    - **normflows**: `NormalizingFlow`, `ConditionalNormalizingFlow`, `ClassCondFlow` (one-hot classes as condition),
      `MultiscaleFlow` (latents joined in the order of their list), single layers. Theirs run from latent to data; the
      adapted map is their inverse.
    - **zuko**: flows, lazy and plain transforms; a context needs `condition_features`.
    - **FrEIA**: `SequenceINN`, `GraphINN`, blocks. Several inputs, outputs or conditions are joined, flattened and
      side by side.
    - **torch.distributions**, **Pyro**: bijective transforms, `TransformedDistribution` (from data to base, so its
      transforms' inverses), Pyro's conditional ones. All axes behind the first are summed in log_det. Caches are
      passed by.
    - a **module** with two directions: `forward` and one of `inverse`, `reverse`, `decode`, `inv`, or a flag such as
      `forward(y, reverse=True)`; or names given by `forward` and `inverse`. Results may be y, (y, log_det, ...), or
      Glow's (log p, log_det, [z of each level]).
    - two **callables**, `adapt(forward=f, inverse=g)` or `adapt((f, g))`, each returning y or (y, log_det).

    Args:
        obj: the object; a `Bijection` or a `Flow` comes back as it is.
        condition_features: number of features of the condition (their context). Read off the object where it tells,
            else 0; for callables a number above 0 makes it their second argument.
        forward: the map from data to latent, or its name among the object's methods.
        inverse: the map from latent to data, likewise.
        log_det: for maps that return none: a function of (x, y) that gives log|det dy/dx|, or a number. If left out,
            it is computed from the dense Jacobian of autograd, D backward passes for D <= 256 numbers a sample.

    Returns:
        A `Flow` if the object has a base distribution, else a `Bijection`.

    Raises:
        ConfigError: if the object is none of these, is not bijective, or lacks one direction.

    Example:
        >>> flow = adapt(zuko.flows.NSF(2, transforms=3))
        >>> flow.log_prob(x)
        >>> adapt((lambda x: 2 * x, lambda y: y / 2))
    """
    if isinstance(obj, Bijection | Flow):
        return obj
    if forward is None and inverse is None and (library := library_of(obj)) is not None:
        adapted = ADAPTERS[library](obj, condition_features)
        if adapted is not None:
            return adapted
    width = condition_features or 0
    nothing = obj is None and forward is None and inverse is None
    adapted = None if nothing else adapt_callables(obj, forward, inverse, log_det, width)
    if adapted is None:
        raise ConfigError(
            f"adapt: expected {SUPPORTED}; got {type(obj).__name__}. For anything else give its two directions: "
            "invertible.adapt(forward=..., inverse=...)."
        )
    return adapted


def library_of(obj: object) -> str | None:
    """The library whose classes an object is made of, `None` if none of those known."""
    modules = [cls.__module__ for cls in type(obj).__mro__]
    for library in ADAPTERS:
        if any(module == library or module.startswith(f"{library}.") for module in modules):
            return library
    return None
