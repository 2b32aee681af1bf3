"""The audit of a model: can its inverse be trusted, on its data, away from them, for its samples, and under attack."""

import platform
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from torch import Tensor, nn

from invertible.bijection import Bijection
from invertible.errors import ConfigError
from invertible.rounding import rounds_to_tf32
from invertible.stability.adapters import adapt
from invertible.stability.attacking import attack_samples
from invertible.stability.audit_options import (
    ATTACK,
    BOUNDS,
    DIGITS,
    GRADIENTS,
    ROUND_TRIPS,
    SPECTRUM,
    AuditOptions,
)
from invertible.stability.control import Control
from invertible.stability.grading import grade
from invertible.stability.laboratory import Measured, certify, decompose, judge_digits
from invertible.stability.measuring import measure, unmeasurable
from invertible.stability.records import ADVERSARIAL, FAILED, IN_DISTRIBUTION, AuditRecord
from invertible.stability.sample_sets import Data, SampleSet, SampleSets
from invertible.stability.sections import AuditInterrupted, Progress, Sections, silent
from invertible.stability.subject import seeded
from invertible.stability.undisturbed import undisturbed


@torch.no_grad()
def audit(
    flow: Any,  # noqa: ANN401
    x: Tensor,
    *,
    train: Data | None = None,
    other: Data | None = None,
    condition: Tensor | None = None,
    generator: torch.Generator | int | None = None,
    options: AuditOptions | None = None,
    progress: Progress | None = None,
) -> AuditRecord:
    """Measure a model's inverse: on its data, on sets far from them, on latents at several temperatures, under attack.

    Each set goes through both directions (x -> f(x) -> x' and y -> f^-1(y) -> y'); its worst samples are followed
    block by block and run again with the same weights in float64. A set passes if no sample is lost, and the largest
    relative error and the largest disagreement of log-determinants are within the tolerance. The maps are called
    directly, so that a flow's own checks hide nothing. The model comes out unchanged: mode, parameters, buffers and
    global random numbers are as before; if it was never initialised, it is initialised for the audit alone.

    Further sections follow: an attack, whose worst points are one more set; predicted digits of the inverse beside the
    true ones; singular values, and log-determinants checked against them; certified Lipschitz bounds; the gradient of
    memory-saving training beside the stored one. An error of the model in one of them is recorded, and the others run.

    Args:
        flow: a `Flow`, or anything that has a `bijection`, and may have a `base` with `sample` and `levels`; or a
            bijection, whose latents are then drawn from N(0, T^2); or another library's, as `adapt` takes it.
        x: data that the model was not trained on, (B, ...); integers are dequantised with the flow's levels, and the
            noise is part of the sample.
        train: data that it was trained on; a pair (x, condition) if it takes a condition.
        other: another data set, of x's shape; a pair likewise.
        condition: condition of x, of B rows, labels for a flow with classes; sets without one of their own are given
            its rows in turn.
        generator: a generator or a seed for the choice of samples and all noise; seed 0 if `None`.
        options: what to measure, and the tolerance.
        progress: told before each piece of work, see `Progress`.

    Raises:
        AuditInterrupted: a `KeyboardInterrupt` with the `record` of what was measured until then.
        ShapeError: if data do not fit the model or each other.
        DomainError: if x is not finite.
        ConfigError: if `flow` is no flow, or cannot be adapted.
    """
    flow, bijection = _ours(flow, condition)
    options = options or AuditOptions()
    generator = seeded(generator)
    with undisturbed(flow, seed=int(torch.randint(2**31, (), generator=generator, device=generator.device))):
        sets = SampleSets(flow, bijection, generator, options)
        chosen = list(sets.all((x, condition), train, other))
        return _Audit(flow, sets, chosen, progress or silent).run()


class _Audit:
    """An audit under way: what was found so far."""

    def __init__(self, flow: nn.Module, sets: SampleSets, chosen: list[SampleSet], progress: Progress) -> None:
        self.flow, self.sets, self.chosen = flow, sets, chosen
        self.bijection, self.options, self.generator = sets.bijection, sets.options, sets.generator
        self.budget = self.options.budget
        self.control = Control(self.bijection, wanted=self.options.control)
        self.measured: list[Measured] = []
        self.found: dict[str, Any] = {}
        work = {
            ATTACK: 2,
            DIGITS: len(chosen) + (ATTACK in self.options.sections),
            SPECTRUM: 3,
            BOUNDS: 1,
            GRADIENTS: 1,
        }
        self.sections = Sections(progress, len(chosen) + sum(work[each] for each in self.options.sections))

    def run(self) -> AuditRecord:
        """Run all sections that were asked for."""
        parts = {
            ATTACK: self._attack,
            DIGITS: self._digits,
            SPECTRUM: self._spectrum,
            BOUNDS: self._bounds,
            GRADIENTS: self._gradients,
        }
        try:
            with self.sections.run(ROUND_TRIPS, survives=False):
                for each in self.chosen:
                    self.sections.tell(each.name)
                    self._measure(each)
            for name in self.options.sections:
                with self.sections.run(name), torch.enable_grad():
                    parts[name]()
        except KeyboardInterrupt:
            raise AuditInterrupted(self.record()) from None
        return self.record()

    def record(self) -> AuditRecord:
        """What was found."""
        return AuditRecord(
            _description(self.flow, self.chosen[0].values),
            self.options,
            self.budget,
            tuple(each.record for each in self.measured),
            tuple(self.sections.records),
            _versions(),
            datetime.now(UTC).isoformat(timespec="seconds"),
            self.control.note,
            **self.found,
        )

    def _measure(self, chosen: SampleSet) -> None:
        rows = torch.empty(0, dtype=torch.long)
        try:
            record, rows = measure(self.bijection, self.control, chosen, self.options)
        except Exception as error:
            # On the first set it is the call that is wrong, not the model.
            if not self.measured:
                raise
            record = unmeasurable(chosen, error)
        # Attacked samples stand behind the data that they were made from.
        own = [each.chosen.kind == IN_DISTRIBUTION for each in self.measured]
        place = own.index(False) if chosen.kind == ADVERSARIAL and False in own else len(own)
        self.measured.insert(place, Measured(chosen, record, rows))

    def _attack(self) -> None:
        self.sections.tell()
        test = next(each for each in self.measured if each.chosen.name == "test")
        worst, self.found[ATTACK] = attack_samples(self.sets, test, self.sections)
        self.sections.tell("round trips")
        self._measure(worst)

    def _digits(self) -> None:
        self.found[DIGITS] = ()
        for each in self.measured:
            self.sections.tell(each.chosen.name)
            found = judge_digits(self.bijection, self.control, each, self.budget.judged, self.generator)
            self.found[DIGITS] += () if found is None else (found,)

    def _spectrum(self) -> None:
        self.found[SPECTRUM] = ()
        for each in self._revealing():
            self.sections.tell(each.chosen.name)
            found = decompose(self.bijection, each, self.budget, self.generator)
            self.found[SPECTRUM] += () if found is None else (found,)

    def _revealing(self) -> list[Measured]:
        """The test data, the attacked samples, and the set of strangers that fails most, if one does."""
        chosen = [each for each in self.measured if each.chosen.name == "test" or each.chosen.kind == ADVERSARIAL]
        failed = [each for each in self.measured if each.record.status == FAILED and each not in chosen]
        failed = [each for each in failed if len(each.rows)]
        worst = max(failed, key=lambda each: (each.record.non_finite, each.record.worst), default=None)
        return chosen if worst is None else [*chosen, worst]

    def _bounds(self) -> None:
        self.sections.tell()
        own = [each for each in self.measured if each.chosen.kind == IN_DISTRIBUTION]
        self.found[BOUNDS] = certify(self.bijection, own)

    def _gradients(self) -> None:
        self.sections.tell()
        test = next(each for each in self.measured if each.chosen.name == "test")
        self.found[GRADIENTS] = grade(self.flow, test, self.budget.graded)


def _ours(flow: Any, condition: Tensor | None) -> tuple[nn.Module, Bijection]:  # noqa: ANN401
    """The model and its bijection; another library's is adapted."""
    bijection = flow if isinstance(flow, Bijection) else getattr(flow, "bijection", None)
    if isinstance(bijection, Bijection):
        return flow, bijection
    width = None if condition is None or condition.dim() < 2 else condition.shape[1]
    try:
        flow = adapt(flow, condition_features=width)
    except ConfigError as error:
        raise ConfigError(
            f"audit: expected a Flow, a Bijection or an object with a bijection, got {type(flow).__name__}, "
            f"which cannot be adapted either. {error}"
        ) from error
    return flow, flow if isinstance(flow, Bijection) else flow.bijection


def _description(flow: nn.Module, x: Tensor) -> dict[str, Any]:
    config = getattr(flow, "config", None)
    known = isinstance(config, dict)
    return {
        "name": str(config.get("model", type(flow).__name__)) if known else type(flow).__name__,
        "parameters": sum(parameter.numel() for parameter in flow.parameters()),
        "dtype": str(x.dtype).removeprefix("torch."),
        "device": str(x.device),
        "tf32": list(rounds_to_tf32(x.device, convolutions=x.dim() > 2)) if x.dtype == torch.float32 else [],
        "data_shape": list(x.shape[1:]),
        "config": config if known else None,
    }


def _versions() -> dict[str, str]:
    try:
        own = version("invertible")
    except PackageNotFoundError:
        own = "not installed"
    return {"invertible": own, "torch": torch.__version__, "python": platform.python_version()}
