"""Linear layers whose operator norm is certified to be at most a target, at every call."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from invertible.blocks.lipschitz.certificate import Certificate, matrix_certificate
from invertible.blocks.lipschitz.layer import LipschitzLayer
from invertible.blocks.lipschitz.sums import matrix_sums
from invertible.norms import matrix_norm, outward


class LipschitzLinear(LipschitzLayer, nn.Linear):
    """y = W min(1, c/|W|) x + b, whose Lipschitz constant is certified to be at most c.

    |W| is bounded from above, so that c holds at every call: for the 2-norm within 1.001 times the largest singular
    value, by an estimate and one Cholesky factorisation that proves it (see
    `invertible.blocks.lipschitz.eigenvalue.largest_eigenvalue`); for norms 1 and infinity by the sums that they are.
    The scale is a function of W alone: there are no vectors of a power iteration to be saved, and training and eval
    mode compute the same map. While W stays as it is, the scaled weight is kept.

    The gradient is that of the scaled weight, with |W| differentiated as u^T W v (Miyato et al. 2018, appendix A),
    singular vectors held constant; second derivatives with respect to W are those of this expression.

    Args:
        in_features: n.
        out_features: m.
        bias: add a learned b.
        lipschitz: c, positive.
        norm: 1, 2 or `math.inf`, of input and output.

    Shapes:
        (B, n) -> (B, m).

    Cost: for a new W one Gram matrix and one Cholesky factorisation of the smaller side, in float64; otherwise a
    comparison of W with a copy.

    Numerics: c holds for the numbers in use, rounding to their dtype included, under autocast too.

    Raises:
        ConfigError: if `lipschitz` is not positive or `norm` is another one.
        DomainError: by `forward`, if an entry of W is not finite.

    Example:
        >>> layer = LipschitzLinear(64, 128, lipschitz=0.97)
        >>> y = layer(torch.randn(16, 64))
    """

    def __init__(
        self, in_features: int, out_features: int, *, bias: bool = True, lipschitz: float = 1.0, norm: float = 2
    ) -> None:
        super().__init__(in_features, out_features, bias)
        self.set_target(lipschitz, norm)

    def forward(self, input: Tensor) -> Tensor:
        """(B, n) -> (B, m)."""
        return functional.linear(input, self.weight_in_use(), self.bias)

    def certificate(self, weight: Tensor, size: tuple[int, ...] = ()) -> Certificate:
        """Bound of the norm of a weight, which depends on no size."""
        name = type(self).__name__
        return matrix_certificate(name, weight) if self.norm == 2 else matrix_sums(name, weight, self.norm)

    def lipschitz_bound(self, norm: float = 2, size: tuple[int, ...] | None = None) -> float:
        """Certified bound of the weight in use, computed anew in float64, in any of the norms."""
        self.forget()
        weight = self.weight_in_use().detach().double().cpu()
        if not bool(weight.isfinite().all()):
            return math.inf
        if norm == 2:
            return matrix_norm(weight)
        return outward(float(torch.linalg.matrix_norm(weight, norm)), sum(weight.shape)) if weight.numel() else 0.0

    def magnitude_bound(self, magnitudes: Tensor) -> Tensor:
        """|W| times the magnitudes, and |b|."""
        weight = self.weight_in_use().detach().double().abs().cpu()
        # 0 times infinity is 0.
        terms = torch.where(weight > 0, weight * magnitudes, 0.0)
        return terms.sum(1) + (0.0 if self.bias is None else self.bias.detach().double().abs().cpu())
