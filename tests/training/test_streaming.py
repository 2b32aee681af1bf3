"""Images read from a folder while a model trains on them."""

import copy
import gc
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections import Counter

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file

from invertible.data.augment import EvaluationTransform
from invertible.data.images import open_picture
from invertible.errors import ConfigError, DataError
from invertible.training import parse_recipe
from invertible.training.batches import Share
from invertible.training.randomness import generator_for
from invertible.training.streaming import StreamedImages
from tests.data.examples import noise
from tests.training.test_resume import Signal
from tests.training.tiny import curves, train

# A machine of one core is told that two processes are many.
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")

LEVELS = {"dark": 0, "grey": 90, "light": 180}


def fill(folder, n, **levels):
    """Noisy pictures of various sizes, a folder a class, JPEG and PNG, colour and grey."""
    for name, level in (levels or LEVELS).items():
        (folder / name).mkdir(parents=True)
        for k in range(n):
            shape = (36 + k, 40, 3) if k % 3 else (40, 36 + k)
            pixels = (level + noise(*shape) // 4).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{k}.{'jpg' if k % 2 else 'png'}")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    fill(folder / "train", 8)
    fill(folder / "val", 3)
    fill(folder / "test", 2)
    return folder


def raw(folder, **stream):
    return {
        "name": "tiny-folder",
        "model": {"name": "revnet", "arguments": {"units": [1, 1], "filters": [8, 8, 16], "momentum": 0.1}},
        "data": {
            "name": str(folder),
            "batch_size": 6,
            "evaluation_batch_size": 4,
            "flip": True,
            "stream": {"size": 32, "resize": 36, "workers": 0, "jitter": [0.4, 0.4, 0.4, 0.1], **stream},
        },
        "optimizer": {"name": "sgd", "lr": 0.05},
        "training": {"steps": 6, "checkpoint_every": 2},
    }


def streamed(folder, *overrides, data_dir=None, **stream):
    return StreamedImages(parse_recipe(copy.deepcopy(raw(folder, **stream)), overrides), data_dir)


def take(batches, n):
    iterator = iter(batches)
    return [next(iterator) for _ in range(n)]


def test_what_a_batch_is(folder):
    data = streamed(folder)
    assert (data.shape, data.classes, data.grey_levels) == ((3, 32, 32), ("dark", "grey", "light"), 256)
    assert data.steps_per_epoch == 4
    ((x, y),) = take(data.stream(), 1)
    assert (x.shape, x.dtype, y.shape, y.dtype) == ((6, 3, 32, 32), torch.uint8, (6,), torch.int64)
    assert streamed(folder, "data.options.channels=1").shape == (1, 32, 32)
    means = x.float().mean((1, 2, 3))
    assert means[y == 2].min() > means[y == 0].max()


def test_pictures_do_not_depend_on_the_number_of_workers(folder):
    alone, helped = (take(streamed(folder, workers=workers).stream(3), 5) for workers in (0, 2))
    for (x, y), (z, w) in zip(alone, helped, strict=True):
        assert torch.equal(x, z)
        assert torch.equal(y, w)


def test_a_stream_continues_where_it_was_left(folder):
    data = streamed(folder)
    whole = take(data.stream(), 10)
    for start in (0, 3, 4, 7):
        for (x, y), (z, w) in zip(take(data.stream(start), 10 - start), whole[start:], strict=True):
            assert torch.equal(x, z)
            assert torch.equal(y, w)


def test_every_epoch_sees_other_cuts_of_the_same_images(folder):
    batches = take(streamed(folder).stream(), 8)
    first, second = torch.cat([x for x, _ in batches[:4]]), torch.cat([x for x, _ in batches[4:]])
    # No cut of one epoch is one of the other.
    assert (first.flatten(1).double()[:, None] - second.flatten(1).double()[None]).abs().amax(2).min() > 0


@pytest.mark.parametrize("world", [2, 3])
def test_ranks_share_the_batches_of_one(folder, world):
    data = streamed(folder)
    whole = take(data.stream(), 5)
    shares = [take(data.stream(share=Share(rank, world)), 5) for rank in range(world)]
    for step, (x, y) in enumerate(whole):
        assert torch.equal(torch.stack([share[step][0] for share in shares], 1).flatten(0, 1), x)
        assert torch.equal(torch.stack([share[step][1] for share in shares], 1).flatten(0, 1), y)


def test_every_sample_of_an_epoch_is_seen_once_over_all_ranks(folder):
    """With a cut that is the evaluation's, each picture tells which file it is."""
    data = streamed(folder, scale=[1.0, 1.0], ratio=[1.0, 1.0], jitter=[0.0, 0.0, 0.0, 0.0], size=36)
    seen = Counter()
    for rank in range(2):
        for x, y in take(data.stream(share=Share(rank, 2)), data.steps_per_epoch):
            seen.update(
                (int(label), min(each.numpy().tobytes(), each.flip(-1).numpy().tobytes()))
                for each, label in zip(x, y, strict=True)
            )
    assert len(seen) == 24
    assert set(seen.values()) == {1}


@pytest.mark.parametrize("workers", [0, 2])
def test_an_evaluation_is_every_image_once_in_order(folder, workers):
    data = streamed(folder, workers=workers)
    transform = EvaluationTransform(32, 36)
    for split, place, n in (("validation", "val", 9), ("test", "test", 6), ("train", "train", 24)):
        batches = data.evaluation(split)
        got = list(batches)
        assert len(got) == len(batches)
        files = [path for name in sorted(LEVELS) for path in sorted((folder / place / name).iterdir())]
        x, y = torch.cat([each for each, _ in got]), torch.cat([each for _, each in got])
        assert len(x) == n
        assert torch.equal(x, torch.stack([transform(open_picture(file)) for file in files]))
        assert [data.classes[label] for label in y] == [file.parent.name for file in files]
        # The processes stay; a second pass gives the same.
        assert torch.equal(torch.cat([each for each, _ in batches]), x)


def test_no_more_than_ten_thousand_and_of_all_classes(folder, monkeypatch):
    monkeypatch.setattr("invertible.training.streaming.TRAIN_SAMPLES", 9)
    monkeypatch.setattr("invertible.training.streaming.STATISTICS_SAMPLES", 10)
    data = streamed(folder)
    labels = torch.cat([y for _, y in data.evaluation("train")])
    assert len(labels) == 9
    assert len(labels.unique()) == 3
    sample = data.statistics_sample()
    assert (sample.shape, sample.dtype) == ((10, 3, 32, 32), torch.uint8)
    assert torch.equal(sample, streamed(folder, workers=1).statistics_sample())
    assert not torch.equal(sample, streamed(folder, "training.seed=1").statistics_sample())


def test_torch_s_own_generator_is_left_alone(folder):
    data = streamed(folder)
    before = torch.get_rng_state()
    take(data.stream(), 2)
    list(data.evaluation("validation"))
    assert torch.equal(torch.get_rng_state(), before)


def test_validation_is_set_aside_where_there_is_none(tmp_path):
    fill(tmp_path / "train", 10)
    data = streamed(tmp_path)
    assert (len(data.folder.train), len(data.folder.validation)) == (27, 3)
    assert data.evaluation("test") is None
    data = streamed(tmp_path, "data.options={validation: 0.2, test: 0.2, limit: 20}")
    assert [len(part) for part in data.folder.parts.values()] == [19, 5, 6]
    assert sum(len(y) for _, y in data.evaluation("test")) == 6
    assert [len(part) for part in streamed("train", data_dir=tmp_path).folder.parts.values()] == [27, 3]


def spoil(place):
    """Damage one image of the class `grey`."""
    path = place / "grey" / "1.jpg"
    path.write_bytes(path.read_bytes()[:200])
    return path


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_file_is_named(tmp_path, workers):
    fill(tmp_path / "train", 4)
    fill(tmp_path / "val", 2)
    path = spoil(tmp_path / "train")
    data = streamed(tmp_path, workers=workers)
    with pytest.raises(
        DataError, match=r"grey.1.jpg: expected an image, got .*\. Remove it or get it again.$"
    ) as caught:
        take(data.stream(), data.steps_per_epoch)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def one_class(folder):
    fill(folder / "train", 4, a=0)


def lacking(folder):
    fill(folder / "train", 4)
    fill(folder / "val", 2, dark=0, light=9)


def without(folder):
    (folder / "train").mkdir()
    for k in range(9):
        Image.fromarray(noise(9, 9)).save(folder / "train" / f"{k}.png")


def good(folder):
    fill(folder / "train", 4)


FOLDERS = {
    "missing": (
        lambda folder: folder.rmdir(),
        (),
        DataError,
        "data.name: expected a folder of images with data.stream, found none at",
    ),
    "one class": (one_class, (), ConfigError, "expected at least 2 classes, one subfolder each, got 1"),
    "no classes": (without, (), ConfigError, "expected at least 2 classes, .* got images without classes"),
    "class missing": (
        lacking,
        (),
        DataError,
        r"expected in validation the classes of train, got none of grey \(1 of 3 classes lack\)",
    ),
    "batch": (
        good,
        ("data.batch_size=12",),
        ConfigError,
        "data.batch_size: expected at most the 11 training samples, got 12",
    ),
    "option": (good, ("data.options.size=32",), ConfigError, "data.options: expected options among .*, got 'size'"),
    "channels": (good, ("data.options.channels=4",), ConfigError, "data.options.channels: expected 1 or 3, got 4"),
    "fraction": (good, ("data.options.validation=2",), ConfigError, "0 <= validation < 1, got 2"),
    "no validation": (good, ("data.options.validation=0",), ConfigError, "expected validation above 0, since"),
    "padding": (good, ("data.crop_padding=2",), ConfigError, "data.crop_padding: expected 0 with data.stream"),
}


@pytest.mark.parametrize(("make", "overrides", "error", "message"), FOLDERS.values(), ids=FOLDERS.keys())
def test_what_is_wrong(tmp_path, make, overrides, error, message):
    make(tmp_path)
    with pytest.raises(error, match=message):
        streamed(tmp_path, *overrides)


def test_a_batch_that_cannot_be_shared(folder):
    with pytest.raises(ConfigError, match="expected a multiple of the 4 devices, got 6"):
        streamed(folder).stream(share=Share(0, 4))
    with pytest.raises(ConfigError, match="StreamedImages: expected to be used by a trainer"):
        streamed(folder).train_dataloader()


# Whole runs.


def same(a, b):
    first, second = (load_file(folder / "model.safetensors") for folder in (a, b))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert curves(a) == curves(b)


def test_a_run_that_was_resumed_or_read_by_another_process_is_the_run(folder, tmp_path):
    recipe = raw(folder)
    assert train(recipe, tmp_path / "whole").step == 6
    metrics = json.loads((tmp_path / "whole" / "metrics.json").read_text())
    assert [metrics[split]["samples"] for split in ("train", "validation", "test")] == [24, 9, 6]
    assert metrics["classes"]["names"] == ["dark", "grey", "light"]
    stopped = train(recipe, tmp_path / "parts", callbacks=(Signal(5),))
    assert (stopped.interrupted, stopped.step) == (signal.SIGINT, 5)
    train(recipe, tmp_path / "parts", resume="last")
    same(tmp_path / "whole", tmp_path / "parts")
    train(raw(folder, workers=1), tmp_path / "helped")
    same(tmp_path / "whole", tmp_path / "helped")


ENDS = """
import multiprocessing, sys
from pathlib import Path
from invertible.training import read_recipe
from invertible.training.streaming import StreamedImages

data = StreamedImages(read_recipe(Path(sys.argv[1])), None)
stream, validation = iter(data.stream()), data.evaluation("validation")
next(stream)
list(validation)
print(*(process.pid for process in multiprocessing.active_children()))
"""


class SignalToAll(Signal):
    """Has another process send the signal to those that read, too, as a terminal and a cluster do."""

    def on_train_batch_end(self, trainer, *args):
        if trainer.global_step == self.step:
            readers = multiprocessing.active_children()
            assert readers
            subprocess.run(["kill", f"-{self.number}", *(str(process.pid) for process in readers)], check=True)
            time.sleep(0.2)
            assert all(process.is_alive() for process in readers)
        super().on_train_batch_end(trainer, *args)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_all_processes_ends_the_run_in_good_order(folder, tmp_path, number):
    stopped = train(raw(folder, workers=1), tmp_path, callbacks=(SignalToAll(2, number),))
    assert (stopped.interrupted, stopped.step) == (number, 2)
    deadline = time.monotonic() + 20
    while multiprocessing.active_children() and time.monotonic() < deadline:
        gc.collect()
        time.sleep(0.1)
    assert not multiprocessing.active_children()


def test_the_processes_that_read_do_not_outlive_the_run(folder, tmp_path):
    """Although they wait for more, and what they have read ahead was not fetched."""
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(raw(folder, workers=1)))
    done = subprocess.run(
        [sys.executable, "-c", ENDS, tmp_path / "recipe.yaml"], timeout=60, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    pids = [int(pid) for pid in done.stdout.split()]
    assert len(pids) == 2
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


class Seen(pl.LightningModule):
    """Writes down what each process is given."""

    def __init__(self, folder):
        super().__init__()
        self.folder, self.weight = folder, torch.nn.Parameter(torch.zeros(()))

    def training_step(self, batch, index):
        torch.save(batch, self.folder / f"train-{self.global_rank}-{self.global_step}.pt")
        return self.weight

    def validation_step(self, batch, index):
        torch.save(batch, self.folder / f"validation-{self.global_rank}-{index}.pt")

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


@pytest.mark.filterwarnings("ignore:.*fork")
def test_two_processes_train_on_the_batches_of_one(folder, tmp_path):
    data = streamed(folder, workers=1)
    trainer = pl.Trainer(
        accelerator="cpu", devices=2, strategy="ddp_fork", max_epochs=-1, max_steps=5, val_check_interval=5,
        check_val_every_n_epoch=None, use_distributed_sampler=False, num_sanity_val_steps=0, logger=False,
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
    )  # fmt: skip
    trainer.fit(Seen(tmp_path), datamodule=data)
    for step, (x, y) in enumerate(take(streamed(folder).stream(), 5)):
        parts = [torch.load(tmp_path / f"train-{rank}-{step}.pt") for rank in range(2)]
        assert torch.equal(torch.stack([part[0] for part in parts], 1).flatten(0, 1), x)
        assert torch.equal(torch.stack([part[1] for part in parts], 1).flatten(0, 1), y)
    validated = torch.cat([torch.load(path)[1] for path in tmp_path.glob("validation-*.pt")])
    assert validated.bincount().tolist() == [3, 3, 3]


def test_a_cut_is_a_function_of_seed_epoch_and_sample(folder):
    data = streamed(folder)
    batches = data.stream()
    samples = batches.loader.dataset
    x, y = samples[2, 5]
    again = samples.transform(open_picture(data.folder.train.file(5)), generator_for("cpu", "augment", 0, 2, 5))
    assert torch.equal(x, again)
    assert y == int(data.folder.train.y[5])
    assert not torch.equal(x, samples[3, 5][0])
