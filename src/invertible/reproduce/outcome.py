"""The outcome of a reproduction: claims judged, tables and figures, written to a folder."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from invertible import __version__
from invertible.reproduce.experiment import Claim, Experiment, Found, Table
from invertible.reproduce.figures import style, write_figure
from invertible.reproduce.results import to_json
from invertible.training.pictures import write_atomically


@dataclass(frozen=True, eq=False)
class Outcome:
    """What became of an experiment.

    Attributes:
        experiment: the experiment.
        scale: `"quick"` or `"full"`.
        seed: the first seed.
        found: what its runs measured.
        claims: judged.
        tables: of what was measured.
        figures: of matplotlib, by name.
    """

    experiment: Experiment
    scale: str
    seed: int
    found: Sequence[Found]
    claims: Sequence[Claim]
    tables: Sequence[Table]
    figures: Mapping[str, Any]

    @property
    def holds(self) -> bool:
        """Whether every claim holds."""
        return all(claim.holds for claim in self.claims)

    @property
    def seconds(self) -> float:
        """Seconds that its runs took, one after another."""
        return sum(each.seconds for each in self.found)

    @property
    def departures(self) -> Sequence[str]:
        """In what the settings differ from the paper's at this scale."""
        return self.experiment.departures(self.scale)


def judge(experiment: Experiment, scale: str, seed: int, found: Sequence[Found]) -> Outcome:
    """Judge the claims of an experiment, and draw its figures."""
    with style():
        figures = experiment.figures(found)
    return Outcome(experiment, scale, seed, found, experiment.claims(found), experiment.tables(found), figures)


def write(outcome: Outcome, folder: Path) -> list[Path]:
    """Write figures as PNG and SVG and everything measured as `result.json`.

    Returns:
        The files, the figures first.
    """
    paths = [path for name, figure in outcome.figures.items() for path in write_figure(figure, folder / f"{name}.png")]
    result = folder / "result.json"
    write_atomically(result, json.dumps(as_dictionary(outcome), indent=1, allow_nan=False).encode())
    return [*paths, result]


def as_dictionary(outcome: Outcome) -> dict[str, Any]:
    """The outcome as strict JSON holds it."""
    experiment = outcome.experiment
    return {
        "experiment": experiment.name,
        "title": experiment.title,
        "source": experiment.source,
        "scale": outcome.scale,
        "seed": outcome.seed,
        "holds": outcome.holds,
        "claims": [asdict(claim) for claim in outcome.claims],
        "tables": [asdict(table) for table in outcome.tables],
        "departures": list(outcome.departures),
        "seconds": outcome.seconds,
        "invertible": __version__,
        "torch": torch.__version__,
        "runs": [
            {"config": each.config, "seconds": each.seconds, "numbers": to_json(each.numbers)} for each in outcome.found
        ],
    }
