"""Results of runs on disk, by what decided them."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from invertible.errors import DataError
from invertible.reproduce.experiment import Experiment, Found, Measurement, Run
from invertible.training.pictures import write_atomically

NON_FINITE = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


class Results:
    """A folder of what runs measured: a JSON file, and beside it a safetensors file of the arrays.

    Files are named after the experiment and a digest of its name, its version, the run's config, the device's kind and
    torch's version, so that a result is used again exactly when it would come out again.

    Args:
        folder: made when the first result is kept.
        device: on which runs are measured.
    """

    def __init__(self, folder: Path, device: str) -> None:
        self.folder, self.device = folder, device

    def path(self, experiment: Experiment, run: Run) -> Path:
        """The JSON file of a run."""
        decided = [experiment.name, experiment.version, run.config, torch.device(self.device).type, torch.__version__]
        text = json.dumps(decided, sort_keys=True)
        return self.folder / f"{experiment.name}-{hashlib.blake2b(text.encode(), digest_size=8).hexdigest()}.json"

    def get(self, experiment: Experiment, run: Run) -> Found | None:
        """What a run measured before; `None` if nothing is kept.

        Raises:
            DataError: if a file cannot be read.
        """
        path = self.path(experiment, run)
        if not path.exists():
            return None
        try:
            kept = json.loads(path.read_text(encoding="utf-8"))
            arrays = safetensors.torch.load(path.with_suffix(".safetensors").read_bytes()) if kept["arrays"] else {}
            return Found(run.config, from_json(kept["numbers"]), arrays, float(kept["seconds"]))
        except (OSError, ValueError, KeyError, TypeError, safetensors.SafetensorError) as error:
            raise DataError(
                f"{path}: expected a result as reproduce keeps it, got {type(error).__name__} ({error}). Delete it, or "
                "measure anew with --fresh."
            ) from error

    def keep(self, experiment: Experiment, run: Run, measured: Measurement, seconds: float) -> Found:
        """Write what a run measured; the JSON file comes last, so that it never stands without its arrays."""
        path = self.path(experiment, run)
        arrays = {name: value.detach().cpu().contiguous() for name, value in measured.arrays.items()}
        if arrays:
            write_atomically(path.with_suffix(".safetensors"), safetensors.torch.save(arrays))
        content = {
            "experiment": experiment.name,
            "run": run.name,
            "config": run.config,
            "seconds": seconds,
            "arrays": sorted(arrays),
            "numbers": to_json(measured.numbers),
        }
        write_atomically(path, json.dumps(content, indent=1, allow_nan=False).encode())
        return Found(run.config, measured.numbers, arrays, seconds)


def to_json(value: Any) -> Any:  # noqa: ANN401
    """Numbers as strict JSON holds them: what is not finite becomes `"nan"`, `"inf"` or `"-inf"`."""
    if isinstance(value, Mapping):
        return {str(name): to_json(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(each) for each in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def from_json(value: Any) -> Any:  # noqa: ANN401
    """What `to_json` was given."""
    if isinstance(value, dict):
        return {name: from_json(each) for name, each in value.items()}
    if isinstance(value, list):
        return [from_json(each) for each in value]
    return NON_FINITE.get(value, value) if isinstance(value, str) else value
