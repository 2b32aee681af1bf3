"""What all adapters share: a map of another library behind our protocol, and compositions of such maps."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from invertible.bijection import Bijection
from invertible.chain import Chain
from invertible.errors import ShapeError
from invertible.shapes import check_condition, check_input
from invertible.stability.adapters.translation import constants_like, per_sample, translated

Pair = tuple[Any, Any]


class Checked(Bijection):
    """What adapted maps check of their arguments."""

    _any_condition = False

    def condition_unchecked(self) -> None:
        """Take conditions of any width: what an embedding net gives."""
        self._any_condition = True

    def _check(self, x: Tensor, condition: Tensor | None, *_: Any, **__: Any) -> None:  # noqa: ANN401
        name = type(self).__name__
        check_input(name, x, None, None)
        if condition is not None and condition.dim() and not self.condition_features:
            raise ShapeError(
                f"{name}: expected no condition, since none was announced, got one of shape {tuple(condition.shape)}. "
                f"Adapt it by invertible.adapt(..., condition_features={condition.shape[-1]})."
            )
        if not self._any_condition:
            check_condition(name, condition, x, self.condition_features)

    def _get_name(self) -> str:
        return f"{type(self).__name__} (adapted)"


class Foreign(Checked):
    """A map of another library as a bijection; its parameters are shared, not copied.

    A subclass defines `there` and `back` in the other library's way; an instance's class bears the name of the class
    that it wraps, so that paths and messages name it.

    Args:
        theirs: the object; registered as a child if it is a module.
        condition_features: features of the condition that is handed on to it, 0 for none.
    """

    def __init__(self, theirs: Any, condition_features: int = 0) -> None:  # noqa: ANN401
        super().__init__()
        self.theirs, self.condition_features = theirs, condition_features

    def there(self, x: Tensor, condition: Tensor | None) -> Pair:
        """Their map from data to latent: y, and the log-determinant in any shape that they give it."""
        raise TypeError(f"{type(self).__name__}: define there(self, x, condition).")

    def back(self, y: Tensor, condition: Tensor | None) -> Pair:
        """Their map from latent to data, likewise."""
        raise TypeError(f"{type(self).__name__}: define back(self, y, condition).")

    def forward(self, x: Tensor, condition: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Their map from data to latent."""
        return self._run(self.there, x, condition)

    def inverse(self, y: Tensor, condition: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Their map from latent to data."""
        return self._run(self.back, y, condition)

    def _run(self, direction: Any, x: Tensor, condition: Tensor | None) -> tuple[Tensor, Tensor]:  # noqa: ANN401
        owner = type(self).__name__
        self._check(x, condition)
        with translated(owner), constants_like(x):
            try:
                result, log_det = direction(x, condition)
            except RuntimeError as error:
                if torch.is_grad_enabled() or "does not require grad" not in str(error):
                    raise
                # Some take their log-determinant from autograd, and so fail without it.
                with torch.enable_grad():
                    result, log_det = direction(x.detach().requires_grad_(), condition)
                result, log_det = result.detach(), torch.as_tensor(log_det).detach()
        return result, per_sample(owner, log_det, x)


class Composite(Checked, Chain):
    """A composition of another library as a chain of its adapted layers; the class bears the name of theirs."""

    def __init__(self, *blocks: Bijection, condition_features: int = 0) -> None:
        super().__init__(*blocks)
        self.condition_features = self.condition_features or condition_features


class Embedded(Bijection):
    """A map whose condition passes an embedding net first: y = f(x | e(c)).

    Args:
        inner: the map f, given e(c), whose width it does not check.
        embedding: the net e.
        condition_features: features of c.
    """

    def __init__(self, inner: Bijection, embedding: nn.Module, condition_features: int) -> None:
        super().__init__()
        self.inner, self.embedding, self.condition_features = inner, embedding, condition_features
        for module in inner.modules():
            if isinstance(module, Checked):
                module.condition_unchecked()

    def forward(self, x: Tensor, condition: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """f(x | e(c))."""
        self._check(x, condition)
        return self.inner(x, self.embedding(condition))

    def inverse(self, y: Tensor, condition: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """f^-1(y | e(c))."""
        self._check(y, condition)
        return self.inner.inverse(y, self.embedding(condition))
