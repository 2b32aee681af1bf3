"""`invertible predict`: the classes of images."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from invertible.cli.options import command
from invertible.errors import ConfigError


@dataclass(frozen=True)
class PredictOptions:
    """What `invertible predict` takes."""

    model: Annotated[Path, typer.Argument(help="A model file, or the folder of a run.")]
    images: Annotated[list[Path] | None, typer.Argument(help="Image files, and folders of them.")] = None
    top: Annotated[int, typer.Option(min=1, help="How many classes to show of each image.")] = 3
    data: Annotated[
        str | None,
        typer.Option(help="A data set, or a folder of a folder a class, in place of images: prints the accuracy."),
    ] = None
    split: Annotated[str, typer.Option(help="Of the data set: train, validation or test.")] = "test"
    resize: Annotated[
        int | None,
        typer.Option(min=1, help="Shorter side that images are scaled to before their middle is cut out."),
    ] = None
    check: Annotated[bool, typer.Option("--check", help="Invert the features, and compare with the image.")] = False
    features: Annotated[Path | None, typer.Option(help="Write the features of the body to this file, .npz.")] = None
    json_path: Annotated[Path | None, typer.Option("--json", help="Write everything to this file, too.")] = None
    batch_size: Annotated[int, typer.Option(min=1, help="Images a batch.")] = 64
    data_dir: Annotated[Path | None, typer.Option(help="Where data sets lie.")] = None
    device: Annotated[str | None, typer.Option(help="cpu, cuda, ...; a GPU if there is one.")] = None


@command(PredictOptions)
def predict(options: PredictOptions) -> None:
    """Classify images with a trained classifier, or a data set to see how often it is right.

    The exit status is 1 if a prediction is not finite, or with --check an image does not come back from its features
    within 1e-3.
    """
    if bool(options.images) == (options.data is not None):
        raise ConfigError(
            f"predict: expected either images or --data NAME, got {'both' if options.images else 'neither'}."
        )
    if options.features is not None and options.features.suffix != ".npz":
        raise ConfigError(f"--features: expected a name that ends in .npz, got {str(options.features)!r}.")
    from invertible.cli.inputs import inputs_of_data, inputs_of_images
    from invertible.cli.output import console, load_classifier
    from invertible.cli.prediction import class_names, default_resize, predictions
    from invertible.cli.prediction_tables import report, write_features, write_json
    from invertible.cli.waiting import with_progress

    model = load_classifier(options.model, options.device)
    if options.check and not model.body.invertible:
        name = "" if model.config is None else f" of {model.config['model']}"
        raise ConfigError(f"--check: expected an invertible model, such as models.irevnet makes, got one{name}.")
    names = class_names(options.model, model.classes)
    resize = options.resize or default_resize(options.model)
    if options.data is None:
        inputs = inputs_of_images(model, options.images or [], names, resize)
    else:
        inputs = inputs_of_data(model, options.data, options.split, options.data_dir, names, resize)
    batches = with_progress(inputs.batches(options.batch_size), inputs.samples, "images")
    found = predictions(model, batches, features=options.features is not None, check=options.check)
    title = f"{inputs.samples} images" if inputs.labels is None else f"{options.data}, {options.split}"
    record = report(found, inputs, title, options.top, console())
    if options.features is not None:
        write_features(options.features, found, inputs)
    if options.json_path is not None:
        source = {} if options.data is None else {"data": options.data, "split": options.split}
        write_json(options.json_path, {"model": str(options.model), **source, **record})
    if not found.passed:
        raise typer.Exit(1)
