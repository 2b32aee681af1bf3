"""What the commands share: consoles, tables, models and data by name."""

import math
from pathlib import Path

import torch
from rich import box
from rich.console import Console
from rich.table import Table
from torch import Tensor

from invertible import saving
from invertible.classifier import Classifier
from invertible.data import DataSet, Split, load
from invertible.errors import ConfigError
from invertible.flow import Flow
from invertible.models.reconstructor import Reconstructor

SPLITS = ("train", "validation", "test")


def console(*, stderr: bool = False) -> Console:
    """A console without colours where its output is piped, and then wide enough not to wrap."""
    plain = Console(stderr=stderr, highlight=False)
    return plain if plain.is_terminal else Console(stderr=stderr, highlight=False, width=240, no_color=True)


def table(title: str, *columns: str) -> Table:
    """A table; columns after the first are right-aligned."""
    made = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for index, column in enumerate(columns):
        made.add_column(column, justify="right" if index else "left", no_wrap=index == 0)
    return made


def device_named(name: str | None) -> torch.device:
    """A device of this machine; a GPU if there is one, else the CPU, if `None`.

    Raises:
        ConfigError: if there is no such device.
    """
    try:
        where = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(0, device=where)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"--device: expected a device of this machine, such as cpu or cuda, got {name!r}.") from error
    return where


def load_trained(path: Path, device: str | None) -> Flow | Classifier:
    """Load a model file, or the model in the folder of a run, onto a device.

    Args:
        path: a `.safetensors` file, or a folder that holds `model.safetensors`.
        device: name of the device; a GPU if there is one, else the CPU, if `None`.

    Raises:
        ConfigError: if there is no such device, or it is a model that reconstructs.
        DataError: if there is no such file.
    """
    model = saving.load(model_file(path), device=device_named(device))
    if isinstance(model, Reconstructor):
        raise ConfigError(
            f"{path}: expected a flow or a classifier, got a model that reconstructs images. 'invertible reconstruct "
            f"{path} FILE.h5 -o OUT.h5' uses it."
        )
    return model


def load_reconstructor(path: Path, device: str | None) -> Reconstructor:
    """Load a model that reconstructs as `load_trained` loads others.

    Raises:
        ConfigError: if it is a flow or a classifier.
    """
    model = saving.load(model_file(path), device=device_named(device))
    if not isinstance(model, Reconstructor):
        kind = "flow" if isinstance(model, Flow) else "classifier"
        raise ConfigError(
            f"{path}: expected a model that reconstructs, such as models.irim makes, got a {kind}. 'invertible train "
            "irim-mri-small' trains one."
        )
    return model


def load_model(path: Path, device: str | None) -> Flow:
    """Load a flow as `load_trained` does.

    Raises:
        ConfigError: if it is a classifier.
    """
    model = load_trained(path, device)
    if isinstance(model, Classifier):
        raise ConfigError(
            f"{path}: expected a flow, got a classifier, which has no likelihood. 'invertible predict {path} IMAGES' "
            "classifies images with it."
        )
    return model


def load_classifier(path: Path, device: str | None) -> Classifier:
    """Load a classifier as `load_trained` does.

    Raises:
        ConfigError: if it is a flow.
    """
    model = load_trained(path, device)
    if isinstance(model, Flow):
        raise ConfigError(
            f"{path}: expected a classifier, such as models.revnet makes, got a flow. 'invertible score {path} --data "
            "NAME' gives the likelihood of data under it."
        )
    return model


def model_file(path: Path) -> Path:
    """The model file that a path stands for: itself, or the one in the folder of a run."""
    return path / "model.safetensors" if path.is_dir() else path


def load_split(name: str, split: str, data_dir: Path | None, model: Flow | Classifier) -> tuple[DataSet, Split]:
    """A data set that fits the model, and one of its splits.

    Raises:
        ConfigError: if the split is unknown or empty, or data and model have other shapes or levels.
    """
    if split not in SPLITS:
        raise ConfigError(f"--split: expected one of {', '.join(SPLITS)}, got {split!r}.")
    data = load(name, data_dir=data_dir)
    chosen: Split = getattr(data, split)
    if not len(chosen.x):
        raise ConfigError(f"--split {split}: expected samples, but the data set {name} has none there.")
    shape, own = tuple(chosen.x.shape[1:]), data_shape(model)
    levels = model.grey_levels if isinstance(model, Classifier) else model.levels
    if shape != own or data.levels != levels:
        raise ConfigError(
            f"--data {name}: expected data of shape {own} with {levels_text(levels)}, as the model has it, got "
            f"{shape} with {levels_text(data.levels)}. Choose the data set that the model was trained on."
        )
    return data, chosen


def data_shape(model: Flow | Classifier) -> tuple[int, ...]:
    """Shape of one sample of the model's data."""
    if isinstance(model, Classifier):
        return model.shape
    shape = (model.config or {}).get("arguments", {}).get("shape", model.base.shape)
    return (shape,) if isinstance(shape, int) else tuple(shape)


def labels_for(flow: Flow, split: Split) -> Tensor | None:
    """The labels of a split, for a class-conditional model.

    Raises:
        ConfigError: if the model needs labels and the data have none, or needs a condition that is no label.
    """
    if not flow.condition_features:
        return None
    if flow.classes is None:
        raise ConfigError(
            "the model takes a condition that is no class label; score it in Python with flow.bits_per_dim."
        )
    if split.y is None:
        raise ConfigError(f"the model takes class labels 0 .. {flow.classes - 1}, but the data set has none.")
    return split.y


def with_labels(flow: Flow, split: Split) -> Tensor | tuple[Tensor, Tensor]:
    """The samples of a split, with their labels for a class-conditional model."""
    labels = labels_for(flow, split)
    return split.x if labels is None else (split.x, labels)


def levels_text(levels: int | None) -> str:
    """`"17 levels"` or `"continuous values"`."""
    return "continuous values" if levels is None else f"{levels} levels"


def number(value: float, digits: int = 4) -> str:
    """A figure for a table; what is not finite says so."""
    return f"{value:.{digits}f}" if math.isfinite(value) else "not finite"
