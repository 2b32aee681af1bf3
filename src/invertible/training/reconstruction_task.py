"""A run that trains a model that reconstructs."""

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.callbacks import Callback

from invertible import saving
from invertible.models.reconstructor import Reconstructor
from invertible.training.checkpoints import MODEL
from invertible.training.counting import Told
from invertible.training.preparation import build_reconstructor
from invertible.training.progress import Progress
from invertible.training.recipe import Recipe
from invertible.training.reconstruction import METRICS, ReconstructionScore, evaluate_reconstructor, in_precision_of
from invertible.training.reconstruction_module import ReconstructionModule
from invertible.training.reconstruction_plots import Panel, plot_panels, plot_progress
from invertible.training.reconstruction_sections import Scans
from invertible.training.records import read_history
from invertible.training.scan_data import ScanData
from invertible.training.scan_folder import provide_scans
from invertible.training.scoring import scoring
from invertible.training.summary import write_metrics
from invertible.training.task import Task

SPLITS = ("validation", "test")
# Volumes of which the panels show a slice, at each acceleration.
SHOWN = 2


class ReconstructionTask(Task):
    """Reconstruction, with fastMRI's metrics of every volume at every acceleration, panels and curves at the end.

    Args:
        recipe: the recipe.
        data_dir: where scans lie beside the recipe's own path.
    """

    def __init__(self, recipe: Recipe, data_dir: Path | None) -> None:
        super().__init__(recipe, data_dir)
        self._data = ScanData(recipe, data_dir)
        self.reconstructor = self.prepared(build_reconstructor(recipe))
        self.module = ReconstructionModule(
            self.reconstructor,
            recipe.optimizer,
            self.schedule,
            recipe.reconstruction,
            names=self.data.names,
            **self.module_options,
        )

    @classmethod
    def provide(cls, recipe: Recipe, data_dir: Path | None, told: Told) -> None:
        """Simulate k-space where there is none and the recipe says how."""
        provide_scans(recipe.data.name, recipe.data.scans or Scans(), data_dir, told)

    @property
    def data(self) -> ScanData:
        """The data, read from a folder."""
        return self._data

    @property
    def remarks(self) -> Sequence[str]:
        """How many slices of how many volumes there are, and that they are simulated if they are."""
        headers = self.data.headers
        counts = [f"{sum(each.slices for each in of)} in {len(of)} ({part})" for part, of in headers.items()]
        origin = next((each.note or "k-space SIMULATED" for each in headers["train"] if each.simulated), None)
        return f"slices in volumes: {', '.join(counts)}, of {self.data.folder}", *(
            [] if origin is None else [f"not measured: {origin}"]
        )

    @property
    def metadata(self) -> dict[str, str]:
        """What `invertible reconstruct` needs to know of the scans that the model was trained on."""
        section = self.data.section
        keys = ("accelerations", "centre_fractions", "acquisitions", "image_size", "coils", "sensitivities")
        return {
            **{key: json.dumps(getattr(section, key)) for key in keys},
            "masks": section.masks,
            "context_features": str(section.context_width),
            "simulated": json.dumps(self.data.simulated),
        }

    def initialise(self, device: torch.device) -> None:
        """Nothing but the move: what the data decide, the model measures on every observation anew."""
        self.reconstructor.to(device)

    def callbacks(self, folder: Path, interval: int, progress: Progress) -> list[Callback]:
        """None."""
        return []

    def write_results(
        self, folder: Path, best: dict[str, Any], device: torch.device, say: Callable[[str], None]
    ) -> dict[str, Any]:
        """NMSE, PSNR and SSIM over the volumes of validation and test at each acceleration, beside zero-filled's.

        Draws `panels.png` and `curves.png`. A failure to draw is reported and ends nothing.
        """
        model = saving.load(folder / MODEL, device=device)
        assert isinstance(model, Reconstructor)
        splits = [part for part in SPLITS if part in self.data.headers]
        results = {part: {name: self._entry(model, part, name) for name in self.data.names} for part in splits}
        given = {**best, "simulated": self.data.simulated, **results}
        metrics = write_metrics(folder, self.recipe, model, self.module.unit, given)
        try:
            panels = self._panels(model, splits[-1])
            kind = "simulated k-space" if self.data.simulated else "measured k-space"
            plot_panels(panels, f"{self.recipe.name}: {splits[-1]} data, {kind}", folder / "panels.png")
            zero = {
                name: {key: value["mean"] for key, value in entry["zero_filled"].items()}
                for name, entry in results["validation"].items()
            }
            plot_progress(read_history(folder / "history.csv"), best["step"], zero, folder / "curves.png")
        except Exception as error:
            say(f"pictures of the results could not be drawn: {error}")
        return metrics

    def _entry(self, model: Reconstructor, part: str, name: str) -> dict[str, Any]:
        scores = {}
        for key, zero_filled in (("reconstruction", False), ("zero_filled", True)):
            batches = self.data.evaluation(part, name)
            scores[key] = evaluate_reconstructor(model, batches or (), zero_filled=zero_filled)
        own = scores["reconstruction"]
        return {
            **{key: _summary(score) for key, score in scores.items()},
            "volumes": len(own.volumes),
            "slices": own.slices,
            "non_finite": own.non_finite,
            "by_volume": {each.volume: {key: _finite(getattr(each, key)) for key in METRICS} for each in own.volumes},
        }

    @torch.no_grad()
    def _panels(self, model: Reconstructor, part: str) -> list[Panel]:
        like = next(model.parameters())
        panels = []
        for name in self.data.names:
            for volume in range(min(SHOWN, len(self.data.headers[part]))):
                batch = in_precision_of(like, self.data.example(part, name, volume).to(like.device))
                with scoring(model):
                    found = [batch.observation.backprojection(), model(batch.observation)]
                zero_filled, own = (batch.magnitude(each)[0].float().cpu() for each in found)
                assert batch.target is not None
                assert batch.maximum is not None
                label = f"{name}, {batch.volumes[0]}\nslice {batch.indices[0]}"
                panels.append(Panel(label, zero_filled, own, batch.target[0].float().cpu(), float(batch.maximum[0])))
        return panels


def _summary(score: ReconstructionScore) -> dict[str, Any]:
    return {key: {"mean": _finite(score.mean(key)), "deviation": _finite(score.deviation(key))} for key in METRICS}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
