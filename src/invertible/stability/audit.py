"""The audit of a model: can its inverse be trusted, on its data, away from them, and for its samples."""

import platform
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from invertible.bijection import Bijection
from invertible.errors import ConfigError, ShapeError
from invertible.stability.control import Control
from invertible.stability.measuring import SampleSet, measure
from invertible.stability.out_of_distribution import DESCRIPTIONS, dequantized, out_of_distribution
from invertible.stability.records import (
    IN_DISTRIBUTION,
    LATENT,
    OUT_OF_DISTRIBUTION,
    AuditOptions,
    AuditRecord,
)
from invertible.stability.undisturbed import undisturbed

Data = Tensor | tuple[Tensor, Tensor]


@torch.no_grad()
def audit(
    flow: nn.Module,
    x: Tensor,
    *,
    train: Data | None = None,
    other: Data | None = None,
    condition: Tensor | None = None,
    generator: torch.Generator | int | None = None,
    options: AuditOptions | None = None,
) -> AuditRecord:
    """Measure a model's round trips on its data, on sets far from them, and on latents at several temperatures.

    Each set goes through both directions (x -> f(x) -> x' and y -> f^-1(y) -> y'); its worst samples are followed
    block by block and run again with the same weights in float64. A set passes if no sample is lost, and the largest
    relative error and the largest disagreement of log-determinants are within the tolerance. The maps are called
    directly, so that a flow's own checks hide nothing. The model comes out unchanged: mode, parameters, buffers and
    global random numbers are as before; if it was never initialised, it is initialised for the audit alone.

    Args:
        flow: a `Flow`, or anything that has a `bijection`, and may have a `base` with `sample` and `levels`; or a
            bijection, whose latents are then drawn from N(0, T^2).
        x: data that the model was not trained on, (B, ...); integers are dequantised with the flow's levels, and the
            noise is part of the sample.
        train: data that it was trained on; a pair (x, condition) if it takes a condition.
        other: another data set, of x's shape; a pair likewise.
        condition: condition of x, of B rows, labels for a flow with classes; sets without one of their own are given
            its rows in turn.
        generator: a generator or a seed for the choice of samples and all noise; seed 0 if `None`.
        options: what to measure, and the tolerance.

    Raises:
        ShapeError: if data do not fit the model or each other.
        DomainError: if x is not finite.
        ConfigError: if `flow` is no flow.
    """
    bijection = flow if isinstance(flow, Bijection) else getattr(flow, "bijection", None)
    if not isinstance(bijection, Bijection):
        raise ConfigError(
            f"audit: expected a Flow, a Bijection or an object with a bijection, got {type(flow).__name__}. "
            "Wrap another library's flow by a Bijection with forward and inverse."
        )
    options = options or AuditOptions()
    if not isinstance(generator, torch.Generator):
        generator = torch.Generator().manual_seed(generator or 0)
    with undisturbed(flow, seed=int(torch.randint(2**31, (), generator=generator, device=generator.device))):
        sets = list(_Sets(flow, bijection, generator, options).all((x, condition), train, other))
        control = Control(bijection, wanted=options.control)
        records = tuple(measure(bijection, control, each, options) for each in sets)
    return AuditRecord(
        _description(flow, sets[0].values),
        options,
        records,
        _versions(),
        datetime.now(UTC).isoformat(timespec="seconds"),
        control.note,
    )


class _Sets:
    """The sets of an audit, each with the condition that goes with it."""

    def __init__(
        self, flow: nn.Module, bijection: Bijection, generator: torch.Generator, options: AuditOptions
    ) -> None:
        self.flow, self.bijection, self.generator, self.options = flow, bijection, generator, options
        self.base: Any = getattr(flow, "base", None)
        self.levels: int | None = getattr(flow, "levels", None)
        tensors = [t for t in (*flow.parameters(), *flow.buffers()) if t.is_floating_point()]
        self.like = tensors[0] if tensors else torch.empty(0)

    def all(self, test: tuple[Tensor, Tensor | None], train: Data | None, other: Data | None) -> Iterator[SampleSet]:
        """Every set, the model's own data first; a first batch initialises what it must."""
        spare = None if test[1] is None else self._condition(test[1])
        if train is not None:
            yield self._given("train", IN_DISTRIBUTION, "data the model was trained on", train, spare)
        unseen = self._given("test", IN_DISTRIBUTION, "data the model was not trained on", test, spare)
        yield unseen
        strict = self.options.strict
        if self.options.ood:
            made = out_of_distribution(unseen.values, levels=self.levels, generator=self.generator)
            for name, values in made.items():
                condition, rows = unseen.condition, unseen.rows
                yield SampleSet(name, OUT_OF_DISTRIBUTION, DESCRIPTIONS[name], strict, values, condition, rows)
        if other is not None:
            _check_like(other, unseen.values)
            yield self._given("other", OUT_OF_DISTRIBUTION, DESCRIPTIONS["other"], other, spare)
        for temperature in self.options.temperatures:
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
        rows = torch.randperm(len(x), generator=self.generator, device=device)[: self.options.samples].cpu()
        values = dequantized(x[rows.to(x.device)], self.levels, self.generator, self.like.dtype).to(self.like.device)
        own = spare if condition is None else self._condition(condition)
        if own is not None:
            own = own[rows.to(own.device) % len(own)]
        required = kind == IN_DISTRIBUTION or self.options.strict
        return SampleSet(name, kind, description, required, values, self._for(self.bijection, own), rows)

    def _latents(self, temperature: float, unseen: SampleSet, spare: Tensor | None) -> SampleSet:
        count = self.options.samples
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
        given = None if unseen.condition is None else unseen.condition[:1]
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


def _description(flow: nn.Module, x: Tensor) -> dict[str, Any]:
    config = getattr(flow, "config", None)
    known = isinstance(config, dict)
    return {
        "name": str(config.get("model", type(flow).__name__)) if known else type(flow).__name__,
        "parameters": sum(parameter.numel() for parameter in flow.parameters()),
        "dtype": str(x.dtype).removeprefix("torch."),
        "device": str(x.device),
        "data_shape": list(x.shape[1:]),
        "config": config if known else None,
    }


def _versions() -> dict[str, str]:
    try:
        own = version("invertible")
    except PackageNotFoundError:
        own = "not installed"
    return {"invertible": own, "torch": torch.__version__, "python": platform.python_version()}


def _check_like(other: Data, x: Tensor) -> None:
    shape = (other[0] if isinstance(other, tuple) else other).shape
    if shape[1:] != x.shape[1:]:
        raise ShapeError(
            f"audit: expected other of shape (batch, {', '.join(map(str, x.shape[1:]))}) like x, got {tuple(shape)}. "
            "Resize or crop it."
        )
