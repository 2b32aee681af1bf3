"""A network of features, and a head that classifies them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from invertible.chain import Chain
from invertible.errors import ConfigError, DomainError, ShapeError, require_positive
from invertible.sequential import Sequential
from invertible.shapes import check_placement, finite_rows


class Classifier(nn.Module):
    """p(class | x) = softmax(head(body(x))).

    Where the body is invertible (i-RevNet), the features of an image give the image back: `invert(features(x))`.

    Args:
        body: maps images (B, *shape) to features.
        head: maps features to logits (B, classes).
        shape: of one sample, such as (channels, height, width).
        classes: number of classes.
        grey_levels: levels of discrete data: integers 0 .. levels - 1 are scaled to [0, 1]. `None` for continuous
            data.
        validate: refuse inputs and results that are not finite, at the price of waiting for the device. Switch it off
            per object: `model.validate = False`.

    Attributes:
        config: the model's name and arguments, from which `invertible.load` rebuilds it; set by `invertible.models`.

    Raises:
        ConfigError: if a size or number of classes is not positive, or `grey_levels` below 2.

    Example:
        >>> model = models.irevnet("cifar", classes=10)
        >>> logits = model(images)
        >>> again = model.invert(model.features(images))
    """

    config: dict[str, Any] | None = None

    def __init__(
        self,
        body: Sequential,
        head: nn.Module,
        *,
        shape: Sequence[int],
        classes: int,
        grey_levels: int | None = None,
        validate: bool = True,
    ) -> None:
        super().__init__()
        self.shape, self.classes, self.grey_levels, self.validate = tuple(shape), classes, grey_levels, validate
        require_positive("Classifier", classes=classes, **{f"shape[{i}]": size for i, size in enumerate(self.shape)})
        if grey_levels is not None and grey_levels < 2:
            raise ConfigError(f"Classifier: expected grey_levels of at least 2, got {grey_levels}.")
        self.body, self.head = body, head

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, classes) of data (B, *shape): integer levels, or floating-point numbers on [0, 1].

        Raises:
            ShapeError: on a wrong shape, dtype or device.
            DomainError: if x is not finite, or the result is not.
        """
        x = self.scaled(x)
        logits = self.head(self.body(x))
        self._check_finite(logits, x)
        return logits

    def features(self, x: Tensor) -> Tensor:
        """What the body makes of data (B, *shape)."""
        x = self.scaled(x)
        found = self.body(x)
        self._check_finite(found, x)
        return found

    def invert(self, features: Tensor) -> Tensor:
        """The data (B, *shape), on [0, 1], of which these are the features.

        Features that no image has, as an interpolation of two others may be where channels are padded, give the image
        whose features differ from them in the padding alone. Evaluate the model in eval mode: dropout and the
        statistics of a batch have no inverse.

        Raises:
            NotInvertibleError: naming the layer that has no inverse, or if the result is not finite.
            ConfigError: in training mode.
        """
        if self.training:
            raise ConfigError("Classifier.invert: expected eval mode, got training mode. Call model.eval() first.")
        x = self.body.inverse(features)
        self._check_finite(x, features)
        return x

    @property
    def bijection(self) -> Chain | None:
        """The body as a `Chain` if it is bijective, for `inv.audit(model, x)` and all of `stability`; else `None`."""
        return self.body.bijection

    def probabilities(self, x: Tensor) -> Tensor:
        """p(class | x), (B, classes), in float32 at least."""
        logits = self(x)
        return torch.softmax(logits if logits.dtype == torch.float64 else logits.float(), 1)

    def predict(self, x: Tensor) -> Tensor:
        """The most probable class of each sample, int64 (B,)."""
        return self(x).argmax(1)

    def scaled(self, x: Tensor) -> Tensor:
        """Data as the body takes them: integer levels scaled to [0, 1], floating-point numbers as they are.

        Raises:
            ShapeError: on a wrong shape, dtype or device.
        """
        if x.dim() != 1 + len(self.shape) or tuple(x.shape[1:]) != self.shape:
            raise ShapeError(
                f"Classifier: expected x of shape (batch, {', '.join(map(str, self.shape))}), got {tuple(x.shape)}. "
                "Resize or crop the images, or build the model with their shape."
            )
        if x.is_floating_point():
            check_placement("Classifier", x, self.anchor)
            return x
        if self.grey_levels is None:
            raise ShapeError(
                f"Classifier: got {x.dtype}, but the model was built for continuous data (grey_levels=None). Convert x "
                "with x.float(), or build the model with grey_levels=256."
            )
        return x.to(self.anchor.device, self.anchor.dtype) / (self.grey_levels - 1)

    @property
    def anchor(self) -> nn.Parameter:
        """A parameter, whose device and dtype are those of the model."""
        return next(self.parameters())

    def _check_finite(self, result: Tensor, given: Tensor) -> None:
        if not self.validate or torch.compiler.is_compiling() or bool(result.detach().isfinite().all()):
            return
        for what, tensor in (("input", given), ("result", result)):
            bad = (~finite_rows(tensor)).nonzero().flatten()
            if len(bad):
                remedy = "Remove them" if what == "input" else "The weights have diverged: lower the learning rate"
                raise DomainError(
                    f"Classifier: expected finite {what}s, got NaN or infinity in {len(bad)} of {len(tensor)} samples, "
                    f"first in sample {int(bad[0])}. {remedy}, or set model.validate = False."
                )
