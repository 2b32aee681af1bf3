"""Coupling blocks: one part of x is transformed elementwise, with parameters computed from the other part.

Blocks differ in the elementwise map only; `Coupling` holds everything else.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from invertible.ball import like, norms_of
from invertible.bijection import Bijection, Domain, LipschitzBounds, Reconstruction
from invertible.blocks.coupling_step import CouplingStep
from invertible.blocks.elementwise import ElementwiseMap
from invertible.blocks.nets import NetFactory, default_net, fit_condition
from invertible.errors import ConfigError
from invertible.memory.step import Step
from invertible.norms import lipschitz_bound, magnitude_bound, outward, times
from invertible.partition import Partition, Parts, partition
from invertible.shapes import check_placement, per_sample_sum, zero_log_det


class Coupling(Bijection):
    """y_1 = x_1, y_2 = m(x_2; net(x_1, c)) for an elementwise map m (Dinh et al. 2015, equations 4 to 7).

    Use `AdditiveCoupling`, `AffineCoupling` or `SplineCoupling`, which choose m. With a finite `conditioner_bound` b
    the conditioner sees b tanh(x_1/b) in place of x_1: next to nothing changes where the data lie, and far from them,
    where it was never trained, it extrapolates by a constant, so that errors of x_1 are not amplified there. Deep flows
    keep their inverse by it. The deviation of x_1 should be about 1, as it is after `ActNorm`.

    In constant-memory training the conditioner is evaluated once: the pass that inverts the block also rebuilds its
    graph.
    """

    def __init__(
        self,
        elementwise: ElementwiseMap,
        features: int,
        *,
        net: NetFactory | None,
        hidden: Sequence[int],
        mask: str | Tensor,
        flip: bool,
        spatial_dims: int,
        condition_features: int,
        conditioner_bound: float,
    ) -> None:
        super().__init__()
        owner = type(self).__name__
        if not conditioner_bound > 0:
            raise ConfigError(
                f"{owner}: expected conditioner_bound > 0, got {conditioner_bound!r}. math.inf sets no bound."
            )
        if isinstance(features, bool) or not isinstance(features, int) or features < 1:
            raise ConfigError(f"{owner}: expected features to be an integer of at least 1, got {features!r}.")
        if not isinstance(condition_features, int) or condition_features < 0:
            raise ConfigError(f"{owner}: expected condition_features of at least 0, got {condition_features!r}.")
        if isinstance(mask, str) and mask == "checkerboard" and spatial_dims != 2:
            raise ConfigError(f"{owner}: expected spatial_dims=2 with mask='checkerboard', got {spatial_dims}.")
        self.elementwise = elementwise
        self.features, self.spatial_dims, self.condition_features = features, spatial_dims, condition_features
        self.cut = cut = partition(mask, features, owner)
        self.flip, self.conditioner_bound = flip, float(conditioner_bound)
        passive, active = cut.sizes[::-1] if flip else cut.sizes
        factory = net or default_net(spatial_dims, hidden)
        self.net = factory(passive + condition_features, elementwise.count * active)
        if not isinstance(self.net, nn.Module):
            raise ConfigError(f"{owner}: expected net to return a Module, got {type(self.net).__name__}.")

    @property
    def partition(self) -> Partition:  # pyright: ignore[reportIncompatibleVariableOverride]
        """How the block cuts its input in two."""
        return self.cut

    def forward(self, x: Tensor, condition: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Transform the active part: (y, log_det)."""
        self._check(x, condition, self.features, self.spatial_dims)
        parts, log_slope = self.forward_parts(self.cut.split(x), condition)
        return self.cut.merge(*parts), _log_det(log_slope, x)

    def inverse(self, y: Tensor, condition: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Transform the active part back: (x, log_det)."""
        self._check(y, condition, self.features, self.spatial_dims)
        parts, log_slope = self.inverse_parts(self.cut.split(y), condition)
        return self.cut.merge(*parts), _log_det(log_slope, y)

    def forward_parts(self, parts: Parts, condition: Tensor | None) -> tuple[Parts, Tensor | None]:
        """`forward` on parts kept apart."""
        passive, active = self._ordered(parts)
        y, log_slope = self.elementwise.forward(active, self._map_parameters(passive, condition))
        return self._ordered((passive, y)), log_slope

    def inverse_parts(self, parts: Parts, condition: Tensor | None) -> tuple[Parts, Tensor | None]:
        """`inverse` on parts kept apart."""
        passive, active = self._ordered(parts)
        x, log_slope = self.elementwise.inverse(active, self._map_parameters(passive, condition))
        return self._ordered((passive, x)), log_slope

    def reconstruct(self, y: Tensor, condition: Tensor | None = None) -> Reconstruction:
        """Recover x and rebuild the graph with one evaluation of the conditioner."""
        self._check(y, condition, self.features, self.spatial_dims)
        x = y.detach().clone().requires_grad_()
        with torch.enable_grad():
            passive, active = self._ordered(self.cut.split(x))
            parameters = self._map_parameters(passive, condition)
            with torch.no_grad():
                recovered, _ = self.elementwise.inverse(active, parameters)
                # Through .data, because the graph so far has seen the passive part only, which keeps its values.
                x.data.copy_(self.cut.merge(*self._ordered((passive, recovered))))
            active = self._ordered(self.cut.split(x))[1]
            y_active, log_slope = self.elementwise.forward(active, parameters)
            rebuilt = self.cut.merge(*self._ordered((passive, y_active)))
        return Reconstruction(x, rebuilt, _log_det(log_slope, y_active))

    def steps(self) -> list[Step]:
        """One step on the parts, which evaluates the conditioner once forward, once in its reconstruction."""
        return [
            CouplingStep(type(self).__name__, self, self._map_parameters, self.elementwise, active=int(not self.flip))
        ]

    def bounds(self, domain: Domain | None = None) -> LipschitzBounds:
        """The elementwise map's bounds, given a certified bound of the conditioner's Lipschitz constant."""
        return self.elementwise.bounds(lipschitz_bound(self.net), self._offset(domain), domain)

    def image(self, domain: Domain) -> Domain:
        """The passive part's box, and the transformed part's."""
        active = self.elementwise.image(self._offset(domain), domain)
        return like(active, max(domain.y, active.x), max(domain.x, active.y), *norms_of(active))

    def _offset(self, domain: Domain | None) -> Domain:
        """Bounds of the numbers of net(x_1) on the box of inputs and on that of outputs; on a `Ball` its length.

        Numbers by interval arithmetic (`magnitude_bound`), of vectors also by |net(0)| + Lip(net) |x_1|. A condition
        may be of any size.
        """
        domain = Domain(math.inf, math.inf) if domain is None else domain
        x_norm, y_norm = norms_of(domain)
        sides = [self._output(domain.x, x_norm), self._output(domain.y, y_norm)]
        (x, x_length), (y, y_length) = sides
        return like(domain, x, y, x_length, y_length)

    def _output(self, radius: float, length: float) -> tuple[float, float]:
        """Largest number and largest length of net(x_1) for |x_i| <= radius and |x_1|_2 <= length."""
        radius = min(radius, self.conditioner_bound)
        width = self.cut.sizes[1 if self.flip else 0]
        sizes = torch.tensor([radius] * width + [math.inf] * self.condition_features, dtype=torch.float64)
        numbers = magnitude_bound(self.net, sizes)
        largest = float(numbers.max())
        if self.spatial_dims:
            return largest, math.inf
        count = self.elementwise.count * (self.features - width)
        norm = outward(float(numbers.expand(count).norm()), count)
        slope = lipschitz_bound(self.net)
        if math.isfinite(slope) and not self.condition_features:
            zeros = next(self.net.parameters(), torch.zeros(())).new_zeros(1, width)
            with torch.no_grad():
                at_zero = float(self.net(zeros).double().norm())
            # Evaluated in the network's dtype.
            at_zero *= 1 + 64 * torch.finfo(zeros.dtype).eps
            reach = outward(min(length, radius * math.sqrt(width)))
            norm = min(norm, outward(at_zero + times(slope, reach), 2))
        return min(largest, norm), norm

    def _map_parameters(self, passive: Tensor, condition: Tensor | None) -> Tensor:
        if self.conditioner_bound < math.inf:
            passive = torch.tanh(passive * (1 / self.conditioner_bound)) * self.conditioner_bound
        if condition is not None:
            passive = torch.cat((passive, fit_condition(condition, passive)), 1)
        try:
            return self.net(passive)
        except RuntimeError:
            # Only now, because looking for a parameter takes longer than all other checks together.
            check_placement(type(self).__name__, passive, next(self.net.parameters(), None))
            raise

    def _ordered(self, parts: Parts) -> Parts:
        """(passive, active) from the partition's order, and back: a swap if flipped."""
        return (parts[1], parts[0]) if self.flip else parts

    def extra_repr(self) -> str:
        """Map and options, for `print(block)`."""
        flip = ", flip=True" if self.flip else ""
        condition = f", condition_features={self.condition_features}" if self.condition_features else ""
        bound = f", conditioner_bound={self.conditioner_bound:g}" if self.conditioner_bound < math.inf else ""
        return f"{self.elementwise}{flip}{condition}{bound}"


def _log_det(log_slope: Tensor | None, like: Tensor) -> Tensor:
    return zero_log_det(like) if log_slope is None else per_sample_sum(log_slope)
