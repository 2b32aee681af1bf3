"""The objective of normalizing flows as a penalty beside another loss."""

from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from invertible.bijection import Bijection
from invertible.distributions import StandardNormal
from invertible.errors import ConfigError, ShapeError
from invertible.stability.penalties import Count, as_in_inference, passed


@runtime_checkable
class Density(Protocol):
    """Anything with a log-density of latents (B, ...) -> (B,): a base of a `Flow`, a torch distribution."""

    def log_prob(self, value: Tensor, /) -> Tensor:
        """Log-density of each latent in nats."""
        ...


class FlowPenalty:
    """Keeps a map and its inverse near an isometry on the data: the negative log-likelihood with a small weight.

        penalty(z, log_det) = weight mean_b [−log p(z) − log_det],  z, log_det = f(x),

    p the standard normal density. −log p(z) grows with |z|²/2 and −log|det J| = −Σ log σ_i grows as a singular value
    goes to 0, so both ends of the spectrum are held, on the data. In nats a sample, as the code of Behrmann et al.
    (2021) has it, which takes 1e-4 and 1e-5 for classifiers of 32 x 32 images (D = 3072) and 1e-6 for regression in the
    plane.

    Cost: none to speak of, since z and log_det are those of the pass that the loss needs anyway. `of(f, x)` makes a
    pass of its own.

    Args:
        weight: λ.
        base: p; anything with `log_prob`. The standard normal distribution if `None`.
        per_dim: divide by the number D of dimensions, so that one weight means the same for all sizes.
        every: due at every n-th step; the term is not scaled up for it.

    Attributes:
        skipped: samples left out so far, since their term was not finite. The mean is over the others.

    Raises:
        ConfigError: if weight or every is out of its range.

    Example:
        >>> penalty = FlowPenalty(1e-4)
        >>> z, log_det = net(x)
        >>> loss = cross_entropy(head(z), labels) + penalty(z, log_det)
    """

    def __init__(
        self, weight: float = 1e-4, base: Density | None = None, *, per_dim: bool = False, every: int = 1
    ) -> None:
        self._count = Count(type(self).__name__, weight, every)
        self.weight, self.base, self.per_dim, self.every = weight, base, per_dim, every

    @property
    def skipped(self) -> int:
        """Samples left out so far."""
        return self._count.skipped

    def __call__(self, z: Tensor, log_det: Tensor, *, step: int | None = None) -> Tensor:
        """The penalty of latents that are at hand: a scalar with a graph; 0 where it is not due.

        Args:
            z: latents f(x), (B, ...).
            log_det: log|det df/dx|, (B,).
            step: number of the step, from 0; the number of calls so far if `None`.

        Raises:
            ShapeError: if there is no sample, or log_det is not of shape (B,).
        """
        if log_det.shape != z.shape[:1] or not len(z):
            raise ShapeError(
                f"FlowPenalty: expected z of shape (batch, ...) and log_det of shape (batch,), not empty, got "
                f"{tuple(z.shape)} and {tuple(log_det.shape)}. Both directions of a bijection return the pair."
            )
        _, due = self._count.next(step)
        return self._mean(z, log_det) if due else log_det.new_zeros(())

    def of(
        self,
        bijection: Bijection,
        x: Tensor,
        condition: Tensor | None = None,
        *,
        step: int | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """The penalty in a pass of its own, with the map in eval mode.

        Samples whose latents are not finite are not part of the graph. `__call__` cannot leave them out of a graph that
        is made already.

        Args:
            bijection: the map f.
            x: data (B, ...).
            condition: its condition, of B rows.
            step: number of the step, from 0; the number of calls so far if `None`.
            generator: not used: nothing here is random.
        """
        _, due = self._count.next(step)
        if not due:
            return x.new_zeros(())
        with as_in_inference(bijection):
            (z, log_det), rows, reason = passed(bijection.__call__, x, condition)
        self._count.skip(len(x) - len(rows), len(x), reason)
        return self._mean(z, log_det) if len(rows) else x.new_zeros(())

    def _mean(self, z: Tensor, log_det: Tensor) -> Tensor:
        log_prob = self._base(z)
        if log_prob.shape != log_det.shape:
            raise ConfigError(
                f"FlowPenalty: expected base.log_prob(z) of shape {tuple(log_det.shape)}, got {tuple(log_prob.shape)}. "
                "Of a torch distribution over single values, take torch.distributions.Independent."
            )
        values = -(log_prob + log_det)
        finite = values.detach().isfinite()
        if not bool(finite.all()):
            self._count.skip(int((~finite).sum()), len(z), "log p(z) + log_det is not finite")
            values = values[finite]
        return self.weight * (values.mean() if len(values) else values.sum()) / (z[0].numel() if self.per_dim else 1)

    def _base(self, z: Tensor) -> Tensor:
        return StandardNormal(z.shape[1:]).log_prob(z) if self.base is None else self.base.log_prob(z)

    def state_dict(self) -> dict[str, Any]:
        """The number of calls and the samples left out."""
        return self._count.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore them."""
        self._count.load_state_dict(state_dict)
