"""Vector fields of continuous flows: smooth networks of the state, the time and a condition."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from invertible.blocks.nets import fit_condition
from invertible.errors import ConfigError, choose, require_positive
from invertible.norms import lipschitz_bound, outward, times

# All are smooth: at a kink an adaptive solver's steps shrink to nothing, and a trace jumps.
ACTIVATIONS: dict[str, type[nn.Module]] = {"tanh": nn.Tanh, "softplus": nn.Softplus, "silu": nn.SiLU}
LAYERS = ("concatsquash", "concat")


class TimeLayer(nn.Module):
    """One layer of FFJORD's networks: (W x + b) sigmoid(A u + c) + D u, u the time and the condition.

    `"concatsquash"` in the authors' code (Grathwohl et al. 2019); without the gate it is a layer of (x, u) side by
    side, `"concat"`. With u at every position it is a convolution, A and D of size 1 x 1.

    Args:
        layer: W and b, a linear layer or convolution.
        out_features: size of axis 1 of its result.
        context_features: size of axis 1 of u.
        gated: whether there is a gate.
    """

    def __init__(self, layer: nn.Module, out_features: int, context_features: int, *, gated: bool) -> None:
        super().__init__()
        self.layer = layer
        if isinstance(layer, nn.Conv2d):
            self.shift: nn.Module = nn.Conv2d(context_features, out_features, 1, bias=False)
            self.gate: nn.Module | None = nn.Conv2d(context_features, out_features, 1) if gated else None
        else:
            self.shift = nn.Linear(context_features, out_features, bias=False)
            self.gate = nn.Linear(context_features, out_features) if gated else None

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """(B, in, ...) and a context (B or 1, F, ...) to (B, out, ...)."""
        y = self.layer(x)
        if self.gate is not None:
            y = y * torch.sigmoid(self.gate(context))
        return y + self.shift(context)

    def lipschitz_bound(self) -> float:
        """Of x: the norm of W, since the gate is below 1."""
        return lipschitz_bound(self.layer)


class TimeNet(nn.Module):
    """A vector field v(t, x, c): layers of which each sees the time and the condition, smooth activations between.

    The last layer starts at zero, so that the flow starts as the identity.

    Args:
        features: size of axis 1 of x and of v.
        hidden: widths, or channels, of the hidden layers; none makes a field that is affine in x.
        activation: `"tanh"`, `"softplus"` or `"silu"`. ReLU and other functions with kinks are refused: an adaptive
            solver crawls over them.
        layer: `"concatsquash"` (gated by time and condition) or `"concat"`.
        condition_features: width of the condition, (B, F) or for images also (B, F, height, width); 0 for none.
        spatial_dims: 0 for vectors, 2 for images, whose layers are 3 x 3 convolutions.

    Raises:
        ConfigError: if an argument is out of its range.

    Example:
        >>> net = TimeNet(2, hidden=(64, 64))
        >>> v = net(torch.tensor(0.5), torch.randn(8, 2))
    """

    def __init__(
        self,
        features: int,
        hidden: Sequence[int] = (64, 64, 64),
        *,
        activation: str = "tanh",
        layer: str = "concatsquash",
        condition_features: int = 0,
        spatial_dims: int = 0,
    ) -> None:
        super().__init__()
        require_positive("TimeNet", features=features, **{f"hidden[{i}]": width for i, width in enumerate(hidden)})
        gated = choose("TimeNet", "layer", layer, {name: name == "concatsquash" for name in LAYERS})
        if isinstance(activation, str) and "relu" in activation:
            raise ConfigError(
                f"TimeNet: expected a smooth activation, {', '.join(ACTIVATIONS)}, got {activation!r}. At its kinks "
                "the steps of an adaptive solver shrink to nothing; softplus is its smooth form."
            )
        self.activation = choose("TimeNet", "activation", activation, ACTIVATIONS)()
        if spatial_dims not in (0, 2):
            raise ConfigError(f"TimeNet: expected spatial_dims of 0 (vectors) or 2 (images), got {spatial_dims}.")
        self.features, self.condition_features, self.spatial_dims = features, condition_features, spatial_dims
        widths, context = (features, *hidden, features), 1 + condition_features
        self.layers = nn.ModuleList(
            TimeLayer(_linear(a, b, spatial_dims), b, context, gated=gated) for a, b in pairwise(widths)
        )
        for parameter in self.layers[-1].parameters():
            nn.init.zeros_(parameter)

    def forward(self, t: Tensor, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """The field at x.

        Args:
            t: time, a scalar or one for each sample, (B,).
            x: (B, features) or (B, features, height, width).
            condition: the condition.
        """
        context = time_and_condition(t, x, condition)
        for index, layer in enumerate(self.layers):
            x = layer(self.activation(x) if index else x, context)
        return x

    def lipschitz_bound(self) -> float:
        """Product of the layers' norms and the activations' constants: in x, for all t and conditions."""
        bound, activation = 1.0, lipschitz_bound(self.activation)
        for index, layer in enumerate(self.layers):
            bound = times(bound, lipschitz_bound(layer))
            bound = outward(times(bound, activation) if index else bound, 2)
        return bound


def time_and_condition(t: Tensor, x: Tensor, condition: Tensor | None) -> Tensor:
    """What a layer sees beside x: t and c along axis 1, (B or 1, 1 + F, ...) with as many axes as x.

    Args:
        t: a scalar or (B,).
        x: (B, C, ...).
        condition: (B, F) or (B, F, ...), `None` for none.
    """
    time = t.to(x.dtype).reshape(-1, 1, *(1,) * (x.dim() - 2))
    if condition is None:
        return time
    given = condition if condition.dim() == x.dim() else condition.reshape(*condition.shape, *(1,) * (x.dim() - 2))
    if given.shape[2:].numel() > 1:
        given = fit_condition(given, x)
    return torch.cat((time.expand(len(given), 1, *given.shape[2:]), given.to(x.dtype)), 1)


def _linear(in_features: int, out_features: int, spatial_dims: int) -> nn.Module:
    if spatial_dims == 2:
        return nn.Conv2d(in_features, out_features, 3, padding=1)
    return nn.Linear(in_features, out_features)
