"""Runs for each seed, and what those of a kind found."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from invertible.reproduce.experiment import Found, Run


def with_config(found: Sequence[Found], **values: Any) -> list[Found]:  # noqa: ANN401
    """Those whose configs have these values."""
    return [each for each in found if all(each.config[name] == value for name, value in values.items())]


def runs_by_seed(flows: Collection[str], settings: Mapping[str, Any], seeds: Sequence[int]) -> list[Run]:
    """A run for each flow and seed."""
    return [Run(f"{flow}, seed {seed}", {**settings, "flow": flow, "seed": seed}) for seed in seeds for flow in flows]
