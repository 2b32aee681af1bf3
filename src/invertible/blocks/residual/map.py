"""g of y = x + g(x), as a function of x alone, and its Jacobian's products with vectors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from invertible.blocks.residual.layered import is_layered, layered


@dataclass(frozen=True)
class ResidualMap:
    """x -> g(x, c) for one batch of conditions.

    Attributes:
        net: g, a contraction in x.
        condition: c, of B rows, or `None`.
        lipschitz: L < 1, an upper bound of g's Lipschitz constant in x.
        norm: the norm in which it holds: 1, 2 or `math.inf`.
        written_out: take derivatives that are written out where there are any (see `layered`), which are quicker.
    """

    net: nn.Module
    condition: Tensor | None
    lipschitz: float
    norm: float
    written_out: bool = True

    def __call__(self, x: Tensor) -> Tensor:
        """g(x) of shape (B, ...), in x's dtype."""
        g = self.net(x) if self.condition is None else self.net(x, self.condition)
        return g.to(x.dtype)

    def repeated(self, times: int) -> ResidualMap:
        """The map of `times` copies of the batch, one behind the other."""
        if self.condition is None or times == 1:
            return self
        return replace(self, condition=self.condition.repeat(times, *(1,) * (self.condition.dim() - 1)))


@dataclass(frozen=True)
class Linearisation:
    """g at a point, and products with its Jacobian of P vectors at once.

    Attributes:
        value: g(x), (B, ...), with a graph where grad mode is on.
        pull: J^T u of every sample for u of shape (P, B, ...); with `graph=True` as a function of x, the parameters and
            u, else a constant.
        push: J v of the tangents given, (P, B, ...), with a graph like `value`'s; `None` where it is to be had from
            `pull` alone.
    """

    value: Tensor
    pull: Callable[..., Tensor]
    push: Tensor | None = None


def linearise(g: ResidualMap, x: Tensor, tangents: Tensor, *, graph: bool = False) -> Linearisation:
    """Evaluate g once; every product with its transposed Jacobian then costs one backward pass as far as x.

    Args:
        g: the map.
        x: where, (B, ...).
        tangents: vectors v, (P, B, ...), whose P copies of the batch all products are of.
        graph: whether `pull` will be called with `graph=True`.
    """
    if torch._C._are_functorch_transforms_active():
        return _by_transform(g, x, len(tangents))
    if not graph and is_written_out(g, x):
        found = layered(g.net, x, g.condition, tangents if torch.is_grad_enabled() else None)
        return Linearisation(found.value, lambda u, graph=False: found.pull(u), found.push)
    return _by_autograd(g, x, len(tangents))


def is_written_out(g: ResidualMap, x: Tensor) -> bool:
    """Whether derivatives at x are taken by `layered`."""
    return g.written_out and not torch._C._are_functorch_transforms_active() and is_layered(g.net, x)


def _by_autograd(g: ResidualMap, x: Tensor, copies: int) -> Linearisation:
    grad = torch.is_grad_enabled()
    with torch.enable_grad():
        # A node of its own: a condition that depends on x is not part of the Jacobian.
        point = x.view_as(x) if grad and x.requires_grad else x.detach().requires_grad_()
        point = point.repeat(copies, *(1,) * (x.dim() - 1)) if copies > 1 else point
        value = g.repeated(copies)(point)

    def pull(u: Tensor, *, graph: bool = False) -> Tensor:
        if not value.requires_grad:
            return torch.zeros_like(u)
        found = torch.autograd.grad(
            value,
            point,
            u.reshape(value.shape),
            retain_graph=True,
            create_graph=graph,
            allow_unused=True,
            materialize_grads=True,
        )
        return found[0].view(u.shape)

    return Linearisation((value if grad else value.detach())[: len(x)], pull)


def _by_transform(g: ResidualMap, x: Tensor, copies: int) -> Linearisation:
    # Inside vmap, jacrev and the like torch.autograd.grad is not to be had.
    points = x.repeat(copies, *(1,) * (x.dim() - 1))
    value, transposed = torch.func.vjp(g.repeated(copies), points)  # pyright: ignore[reportAssignmentType]

    def pull(u: Tensor, *, graph: bool = False) -> Tensor:
        with torch.set_grad_enabled(graph and torch.is_grad_enabled()):
            return transposed(u.reshape(value.shape))[0].view(u.shape)

    return Linearisation(value[: len(x)], pull)
