"""`invertible sample`: draw samples from a model."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from invertible.cli.options import command
from invertible.errors import ConfigError

CHUNK = 256


@dataclass(frozen=True)
class SampleOptions:
    """What `invertible sample` takes."""

    model: Annotated[Path, typer.Argument(help="A model file, or the folder of a run.")]
    n: Annotated[int, typer.Option("-n", min=1, help="Number of samples.")] = 64
    temperature: Annotated[float, typer.Option(min=0.0, help="Factor of the deviation of the latents.")] = 1.0
    seed: Annotated[int, typer.Option(min=0, help="Seed of the latents.")] = 0
    condition: Annotated[
        int | None,
        typer.Option(
            metavar="LABEL", help="Class to draw from; all in turn if left out. For class-conditional models."
        ),
    ] = None
    out: Annotated[
        Path, typer.Option("--out", "-o", help="A picture (.png) or arrays (.npz, with samples and labels).")
    ] = Path("samples.png")
    device: Annotated[str | None, typer.Option(help="cpu, cuda, ...; a GPU if there is one.")] = None


@command(SampleOptions)
def sample(options: SampleOptions) -> None:
    """Draw samples from a model.

    Samples that are not finite are counted, and marked in a picture; the exit status is then 1.
    """
    if options.out.suffix not in (".png", ".npz"):
        raise ConfigError(f"--out: expected a name that ends in .png or .npz, got {str(options.out)!r}.")
    import torch

    from invertible.cli.output import load_model
    from invertible.training.pictures import draw

    flow = load_model(options.model, options.device)
    labels = _labels(flow.condition_features, flow.classes, options)
    generator = torch.Generator(flow.base.anchor.device).manual_seed(options.seed)
    parts = []
    for start in range(0, options.n, CHUNK):
        part = None if labels is None else labels[start : start + CHUNK].to(flow.base.anchor.device)
        parts.append(draw(flow, min(CHUNK, options.n - start), part, options.temperature, generator))
    x = torch.cat(parts)
    _write(x, labels, options.out)
    broken = int((~torch.isfinite(x)).flatten(1).any(1).sum())
    typer.echo(
        f"{options.n} samples at temperature {options.temperature:g}, {broken} of them not finite: {options.out}"
    )
    if broken:
        raise typer.Exit(1)


def _labels(features: int, classes: int | None, options: SampleOptions):  # noqa: ANN202
    import torch

    if classes is None:
        if options.condition is not None:
            raise ConfigError("--condition: expected none, for the model has no classes. Leave it out.")
        if features:
            raise ConfigError(
                "the model takes a condition that is no class label; sample it in Python with flow.sample."
            )
        return None
    if options.condition is None:
        return torch.arange(options.n) % classes
    if not 0 <= options.condition < classes:
        raise ConfigError(f"--condition: expected a class in 0 .. {classes - 1}, got {options.condition}.")
    return torch.full((options.n,), options.condition)


def _write(x, labels, path: Path) -> None:  # noqa: ANN001
    import io

    import numpy as np

    from invertible.training.pictures import sample_image, write_atomically

    if path.suffix == ".png":
        sample_image(x).save(path)
        return
    arrays = {"samples": x.numpy()} | ({} if labels is None else {"labels": labels.numpy()})
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    write_atomically(path, buffer.getvalue())
