"""Models as files: safetensors weights and the configuration that rebuilds the model. Nothing is unpickled."""

import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from invertible.errors import ConfigError, DataError
from invertible.models import AnyModel, build

FORMAT = "invertible-1"


def save(model: AnyModel, path: str | os.PathLike[str], *, metadata: dict[str, str] | None = None) -> None:
    """Write a model: its weights, its buffers, and the name and arguments that rebuild it.

    The file is written under a temporary name and then renamed, so that a killed run leaves the old one.

    Args:
        model: one made by `invertible.models`.
        path: where to write, usually `*.safetensors`.
        metadata: further strings to keep in the file's header.

    Raises:
        ConfigError: if the model has no `config`, that is, was put together by hand.
    """
    if model.config is None:
        raise ConfigError(
            "save: expected a model made by invertible.models, which carries its config, got one without. Save its "
            "state_dict() with safetensors.torch.save_file and build it by your own code before loading."
        )
    path = Path(path)
    header = {**(metadata or {}), "format": FORMAT, "config": json.dumps(model.config)}
    tensors = {name: tensor.detach().contiguous().cpu() for name, tensor in model.state_dict().items()}
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, temporary, header)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def load(path: str | os.PathLike[str], *, device: str | torch.device = "cpu") -> AnyModel:
    """Rebuild a model from a file written by `save`, in eval mode.

    Safe for files from strangers: the file holds tensors and JSON, and the weights must fit the model it names
    before any memory is taken for them.

    Args:
        path: the file.
        device: where to put the model.

    Raises:
        DataError: if the file is missing or no safetensors file of this library.
        ConfigError: if its config is unknown, or its weights do not fit the model that the config describes.
    """
    config, tensors = _read(Path(path), device)
    if (
        not isinstance(config, dict)
        or set(config) != {"model", "arguments"}
        or not isinstance(config["arguments"], dict)
    ):
        raise ConfigError(f"load: expected a config of model and arguments in {path}, got {config!r}.")
    with torch.device("meta"):
        _check_weights(path, build(config["model"], config["arguments"]), tensors)
    with torch.random.fork_rng(devices=[]):
        model = build(config["model"], config["arguments"])
    dtype = next((t.dtype for t in tensors.values() if t.is_floating_point()), torch.get_default_dtype())
    model = model.to(device=device, dtype=dtype)
    model.load_state_dict(tensors)
    return model.eval()


def _read(path: Path, device: str | torch.device) -> tuple[Any, dict[str, torch.Tensor]]:
    if not path.is_file():
        raise DataError(f"load: expected a model file at {path}, found none. invertible.save(flow, path) writes one.")
    try:
        with safe_open(path, "pt", device=str(device)) as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise DataError(
            f"load: expected a safetensors file at {path}, got one that cannot be read: {error}."
        ) from error
    if header.get("format") != FORMAT:
        raise DataError(
            f"load: expected {path} to be written by invertible.save (format {FORMAT}), "
            f"got format {header.get('format')}."
        )
    try:
        return json.loads(header["config"]), tensors
    except (KeyError, json.JSONDecodeError) as error:
        raise ConfigError(
            f"load: expected a JSON config in the header of {path}, got none that can be read."
        ) from error


def _check_weights(path: str | os.PathLike[str], model: AnyModel, tensors: dict[str, torch.Tensor]) -> None:
    expected = model.state_dict()
    for name in sorted(expected.keys() | tensors.keys()):
        if name not in tensors or name not in expected:
            where = "the config's model has no" if name not in expected else "the file holds no"
            raise ConfigError(f"load: weights of {path} do not fit its config: {where} tensor {name}.")
        if expected[name].shape != tensors[name].shape:
            raise ConfigError(
                f"load: weights of {path} do not fit its config: expected {name} of shape "
                f"{tuple(expected[name].shape)}, got {tuple(tensors[name].shape)}."
            )
