"""What `invertible inspect` reads and writes: data with labels, figures."""

from __future__ import annotations

from pathlib import Path

from invertible.classifier import Classifier
from invertible.cli.output import load_split
from invertible.data import DataSet, Split
from invertible.errors import ConfigError
from invertible.flow import Flow
from invertible.reports.representation_pictures import interpolation_plot
from invertible.reports.representation_plots import contraction_plot, dimension_plot, separation_plot
from invertible.reports.representation_spectra import inverse_error_plot, spectrum_plot
from invertible.reports.representation_style import png
from invertible.representations import Labelled, Representations
from invertible.training.pictures import write_atomically

SPLITS = ("test", "validation")
PLOTS = {
    "separation": separation_plot,
    "contraction": contraction_plot,
    "dimension": dimension_plot,
    "spectrum": spectrum_plot,
    "interpolation": interpolation_plot,
    "inverse_error": inverse_error_plot,
}


def load_labelled(name: str, split: str, data_dir: Path | None, model: Flow | Classifier) -> tuple[Labelled, Labelled]:
    """The training samples of a data set that fits the model, and those of one of its splits.

    Raises:
        ConfigError: if the split is unknown, without samples or labels, or the data are of another shape or levels.
    """
    if split not in SPLITS:
        raise ConfigError(f"--split: expected one of {', '.join(SPLITS)}, got {split!r}.")
    data, chosen = load_split(name, split, data_dir, model)
    return _labelled(data, data.train, model), _labelled(data, chosen, model)


def write_figures(found: Representations, out: Path) -> list[str]:
    """Write a picture for everything that was seen, and inspect.json; the names of the files."""
    written = []
    for name, plot in PLOTS.items():
        result = getattr(found, name)
        if result is None or (name == "interpolation" and not result.of_images):
            continue
        write_atomically(out / f"{name}.png", png(plot(result)))
        written.append(f"{name}.png")
    found.to_json(out / "inspect.json")
    return [*written, "inspect.json"]


def _labelled(data: DataSet, split: Split, model: Flow | Classifier) -> Labelled:
    if split.y is None or not len(split):
        raise ConfigError(f"--data {data.name}: expected samples with labels in all of its splits, got {split}.")
    device = next(model.parameters()).device
    y = split.y.to(device)
    takes_condition = isinstance(model, Flow) and bool(model.condition_features)
    if takes_condition and model.classes is None:
        raise ConfigError(
            "the model takes a condition that is no class label; look into it in Python, by invertible.representations."
        )
    return Labelled(split.x.to(device), y, y if takes_condition else None)
