"""The sets of an audit: a model's own data, strangers, and latents at several temperatures."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from invertible.bijection import Bijection
from invertible.errors import ShapeError
from invertible.stability.batches import rows_of
from invertible.stability.out_of_distribution import DESCRIPTIONS, dequantized, out_of_distribution
from invertible.stability.passage import LOST
from invertible.stability.records import IN_DISTRIBUTION, LATENT, OUT_OF_DISTRIBUTION, AuditOptions

Data = Tensor | tuple[Tensor, Tensor]


@dataclass(frozen=True, eq=False)
class SampleSet:
    """One set to measure.

    Attributes:
        name: such as `test`.
        kind: `in-distribution`, `out-of-distribution`, `adversarial` or `latent`.
        description: what it holds.
        required: whether the verdict rests on it.
        values: data, or latents for the kind `latent`, (B, ...).
        condition: of B rows, or `None`.
        rows: the samples' indices in the data set they were taken from, (B,).
        origin: what the values were made from, of the same shape, if that is worth a look.
    """

    name: str
    kind: str
    description: str
    required: bool
    values: Tensor
    condition: Tensor | None
    rows: Tensor
    origin: Tensor | None = None

    def like(self, name: str, kind: str, description: str, values: Tensor, *, required: bool) -> "SampleSet":
        """Values made from the first samples of this set, with their conditions."""
        count = len(values)
        condition = rows_of(self.condition, slice(count))
        return SampleSet(name, kind, description, required, values, condition, self.rows[:count])

    def some(self, rows: Tensor) -> tuple[Tensor, Tensor | None]:
        """The values of these rows, and their condition."""
        rows = rows.to(self.values.device)
        return self.values[rows], rows_of(self.condition, rows)


class SampleSets:
    """The sets of an audit, each with the condition that goes with it."""

    def __init__(
        self, flow: nn.Module, bijection: Bijection, generator: torch.Generator, options: AuditOptions
    ) -> None:
        self.flow, self.bijection, self.generator, self.options = flow, bijection, generator, options
        self.budget = options.budget
        self.base: Any = getattr(flow, "base", None)
        self.levels: int | None = getattr(flow, "levels", None)
        tensors = [t for t in (*flow.parameters(), *flow.buffers()) if t.is_floating_point()]
        self.like = tensors[0] if tensors else torch.empty(0)

    def all(self, test: tuple[Tensor, Tensor | None], train: Data | None, other: Data | None) -> Iterator[SampleSet]:
        """Every set, the model's own data first; a first batch initialises what it must."""
        spare = None if test[1] is None else self._condition(test[1])
        if train is not None:
            seen = self._given("train", IN_DISTRIBUTION, "data the model was trained on", train, spare)
            self._initialise(seen)
            yield seen
        unseen = self._given("test", IN_DISTRIBUTION, "data the model was not trained on", test, spare)
        if train is None:
            self._initialise(unseen)
        yield unseen
        strict = self.options.strict
        if self.options.ood:
            made = out_of_distribution(unseen.values, levels=self.levels, generator=self.generator)
            for name, values in made.items():
                few = values[: self.budget.strangers]
                yield unseen.like(name, OUT_OF_DISTRIBUTION, DESCRIPTIONS[name], few, required=strict)
        if other is not None:
            _check_like(other, unseen.values)
            yield self._given("other", OUT_OF_DISTRIBUTION, DESCRIPTIONS["other"], other, spare)
        for temperature in self.budget.temperatures:
            yield self._latents(temperature, unseen, spare)

    def _given(
        self, name: str, kind: str, description: str, data: Tensor | tuple[Tensor, Tensor | None], spare: Tensor | None
    ) -> SampleSet:
        x, condition = data if isinstance(data, tuple) else (data, None)
        if x.dim() < 2 or not len(x):
            raise ShapeError(f"audit: expected {name} data of shape (batch, ...), not empty, got {tuple(x.shape)}.")
        if condition is not None and len(condition) != len(x):
            raise ShapeError(f"audit: expected a condition of {len(x)} rows for {name}, got {len(condition)}.")
        device = self.generator.device
        rows = torch.randperm(len(x), generator=self.generator, device=device)[: self.budget.data].cpu()
        values = dequantized(x[rows.to(x.device)], self.levels, self.generator, self.like.dtype).to(self.like.device)
        own = spare if condition is None else self._condition(condition)
        if own is not None:
            own = own[rows.to(own.device) % len(own)]
        required = kind == IN_DISTRIBUTION or self.options.strict
        return SampleSet(name, kind, description, required, values, self._for(self.bijection, own), rows)

    def _initialise(self, first: SampleSet) -> None:
        """Send data once: some libraries' layers take their scale from what comes first, one sample or a latent."""
        rows = slice(self.options.batch_size)
        with suppress(*LOST):
            self.bijection(first.values[rows], rows_of(first.condition, rows))

    def _latents(self, temperature: float, unseen: SampleSet, spare: Tensor | None) -> SampleSet:
        count = self.budget.strangers
        condition = None if spare is None else spare[torch.arange(count, device=spare.device) % len(spare)]
        z = self._draw(count, temperature, condition, unseen)
        required = temperature <= 1 or self.options.strict
        text = f"latents drawn at temperature {temperature:g}"
        name, condition = f"latents T={temperature:g}", self._for(self.bijection, condition)
        return SampleSet(name, LATENT, text, required, z, condition, torch.arange(count))

    def _draw(self, count: int, temperature: float, condition: Tensor | None, unseen: SampleSet) -> Tensor:
        like = unseen.values
        seed = torch.randint(2**31, (), generator=self.generator, device=self.generator.device)
        source = torch.Generator(like.device).manual_seed(int(seed))
        if self.base is not None and hasattr(self.base, "sample"):
            return self.base.sample(count, self._for(self.base, condition), temperature, source).to(like)
        given = rows_of(unseen.condition, slice(1))
        shape = self.bijection(like[:1], given)[0].shape[1:]
        return temperature * torch.randn(count, *shape, generator=source, dtype=like.dtype, device=like.device)

    def _condition(self, condition: Tensor) -> Tensor:
        classes = getattr(self.flow, "classes", None)
        if classes is not None and not condition.is_floating_point():
            condition = functional.one_hot(condition.long(), classes)
        return condition.to(self.like) if not condition.is_floating_point() else condition.to(self.like.device)

    def _for(self, part: Any, condition: Tensor | None) -> Tensor | None:  # noqa: ANN401
        """The condition for those that take one; one that nobody takes goes to the bijection, which refuses it."""
        nobody = not (self.bijection.condition_features or getattr(self.base, "condition_features", 0))
        takes = getattr(part, "condition_features", 0) or (nobody and part is self.bijection)
        return condition if takes else None


def _check_like(other: Data, x: Tensor) -> None:
    shape = (other[0] if isinstance(other, tuple) else other).shape
    if shape[1:] != x.shape[1:]:
        raise ShapeError(
            f"audit: expected other of shape (batch, {', '.join(map(str, x.shape[1:]))}) like x, got {tuple(shape)}. "
            "Resize or crop it."
        )
