"""The audit as one call: measure a model, print what was found, write a page."""

import html
import json
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from invertible.errors import ConfigError, DataError, MissingDependencyError
from invertible.reports import audit_page, audit_rich, audit_text
from invertible.reports.audit_progress import audit_progress
from invertible.stability import audit as measured
from invertible.stability.findings import Finding, findings, headline
from invertible.stability.record_json import from_dict, to_dict
from invertible.stability.records import AuditOptions, AuditRecord

Data = Tensor | tuple[Tensor, Tensor]


class AuditReport:
    """What an audit found, ready to be read, written and kept.

    Args:
        record: every figure that was measured.

    Example:
        >>> report = audit(flow, x_test)
        >>> print(report)
        >>> report.to_html("audit.html")
    """

    def __init__(self, record: AuditRecord) -> None:
        self.record = record

    @property
    def passed(self) -> bool:
        """Whether all required sets passed."""
        return self.record.passed

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What there is to say about the sets, in plain words, failures first."""
        return findings(self.record)

    def to_html(self, path: str | os.PathLike[str]) -> Path:
        """Write the audit as one page that loads nothing from a network.

        Raises:
            MissingDependencyError: if matplotlib or jinja2 is not installed.
        """
        return _write(path, audit_page(self.record))

    def to_json(self, path: str | os.PathLike[str]) -> Path:
        """Write every figure as strict JSON: what is not finite is `null`, beside the count of lost samples."""
        return _write(path, json.dumps(to_dict(self.record), allow_nan=False, indent=1) + "\n")

    @classmethod
    def from_json(cls, path: str | os.PathLike[str]) -> "AuditReport":
        """Read what `to_json` wrote.

        Raises:
            DataError: if the file is missing or holds no audit of this version.
        """
        try:
            record = json.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise DataError(
                f"AuditReport.from_json: expected an audit in {path}, got {type(error).__name__}: {error}. "
                "report.to_json(path) writes one."
            ) from error
        return cls(from_dict(record))

    def __str__(self) -> str:
        return audit_text(self.record)

    def __repr__(self) -> str:
        return f"AuditReport(passed={self.passed}, {headline(self.record)!r})"

    def __rich__(self) -> Any:  # noqa: ANN401
        return audit_rich(self.record)

    def _repr_html_(self) -> str:
        try:
            page = audit_page(self.record)
        except MissingDependencyError:
            return f"<pre>{html.escape(str(self))}</pre>"
        # A frame of its own keeps the page's style and the notebook's apart.
        return f'<iframe srcdoc="{html.escape(page)}" style="width:100%;height:48rem;border:0"></iframe>'


def audit(
    flow: Any,  # noqa: ANN401
    x: Tensor,
    *,
    train: Data | None = None,
    other: Data | None = None,
    condition: Tensor | None = None,
    generator: torch.Generator | int | None = None,
    options: AuditOptions | None = None,
    **changes: Any,  # noqa: ANN401
) -> AuditReport:
    """Audit a model: can its inverse be trusted, on its data, far from them, and for its samples?

    `invertible.stability.audit` says what is measured and how; the model comes out unchanged.

    Args:
        flow: a `Flow`, anything with a `bijection`, a `Bijection`; or another library's flow, as `invertible.adapt`
            takes it.
        x: data that the model was not trained on, (B, ...); integers are dequantised with the flow's levels.
        train: data that it was trained on; a pair (x, condition) if it takes a condition.
        other: another data set, of x's shape; a pair likewise.
        condition: condition of x, of B rows; labels for a flow with classes.
        generator: a generator or a seed for the choice of samples and all noise; seed 0 if `None`.
        options: what to measure, and the tolerance.
        **changes: options by name, such as `effort="full"`, `ood=False`, `tolerance=1e-4`, `sections=("attack",)`; see
            `AuditOptions`. And `progress`: `True` for a bar on a terminal or in a notebook, or a `Progress` to tell.

    Raises:
        ConfigError: if `flow` is no flow, or an option is unknown or out of its range.
        ShapeError: if data do not fit the model or each other.
        DomainError: if x is not finite.

    Example:
        >>> report = audit(flow, x_test, train=x_train)
        >>> report.passed
        True
    """
    progress = changes.pop("progress", False)
    options = options or AuditOptions()
    known = list(AuditOptions.__dataclass_fields__)
    unknown = sorted(set(changes) - set(known))
    if unknown:
        raise ConfigError(f"audit: expected options among {', '.join(known)}, got {', '.join(unknown)}.")
    options = AuditOptions(**{name: getattr(options, name) for name in known} | changes)
    data: dict[str, Any] = {"train": train, "other": other, "condition": condition, "generator": generator}
    with audit_progress(progress=progress) as told:
        return AuditReport(measured(flow, x, **data, options=options, progress=told))


def _write(path: str | os.PathLike[str], text: str) -> Path:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path
