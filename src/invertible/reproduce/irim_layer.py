"""The invertible layer of the i-RIM: its inverse, its gradient, its memory, and a reconstruction by it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from invertible.reproduce.experiment import FULL, QUICK, Claim, Experiment, Found, Measurement, Progress, Run, Table
from invertible.reproduce.figures import BLUE, INK, RED, new_figure
from invertible.reproduce.growth import exponent
from invertible.reproduce.irim_measures import memory_of, precision_of, reconstruction_of
from invertible.reproduce.runs import with_config
from invertible.reproduce.simulated_scans import CENTRES
from invertible.reproduce.strips import show
from invertible.reproduce.wording import number, over_seeds

PRECISION, MEMORY, RECONSTRUCTION = "precision", "memory", "reconstruction"
MEASURES: Mapping[str, Callable[..., Measurement]] = {
    PRECISION: precision_of,
    MEMORY: memory_of,
    RECONSTRUCTION: reconstruction_of,
}
# Of the networks whose memory is taken: factors by which their layers downsample, again and again.
FACTORS = (1, 2, 4, 2, 1)
# Layers a step where steps vary, and steps where layers do.
A_STEP, STEPS = 12, 4
SIZES = {
    QUICK: {"size": 32, "channels": 16, "steps": (1, 2, 4, 8, 16), "layers": (3, 12, 30)},
    FULL: {"size": 320, "channels": 64, "steps": (1, 2, 4, 8, 16, 32), "layers": (3, 12, 30, 120)},
}
SMALL = {"channels": 16, "hidden": [16, 32, 64, 32, 16], "factors": [1, 2, 4, 2, 1], "steps": 4}
TRAINING = {
    QUICK: {"model": SMALL, "size": 64, "slices": 80, "judged": 8, "steps": 300, "batch": 4, "lr": 2e-3},
    FULL: {
        "model": {"preset": "single-coil", "context_features": 0}, "size": 256, "slices": 150, "judged": 30,
        "steps": 20_000, "batch": 8, "lr": 1e-4,
    },
}  # fmt: skip
VOLUMES = {"train": "ch2", "test": "mni152"}
SEEDS = 3
# Relative, of round trips and gradients: a few hundred roundings of float32 and of float64.
SINGLE, DOUBLE = 1e-4, 1e-11
# Growth of the peak over a sweep that counts as none; by how much a stored peak's exponent may miss 1.
FLAT, LINEAR = 1.05, 0.1
# Decibels above zero-filled: a fifth less power of the error.
GAIN = 1.0
ERRORS = {
    "layer": "inverse of a layer",
    "machine": "inverse of 4 steps of 5 layers",
    "gradient": "rebuilt gradient against the stored one",
}
METHODS = {"zero": "zero-filled", "irim": "i-RIM"}
STRATEGIES = ("store", "reversible")
SWEEPS = {"steps": f"T, steps of {A_STEP} layers", "layers": f"layers in each of {STEPS} steps"}


class IRIMLayer(Experiment):
    """Sections 3 and 4 of Putzky and Welling (2019)."""

    name = "irim-layer"
    title = (
        "The coupling in an orthogonal basis inverts to rounding, trains by its inverse with the stored gradient, in "
        "memory that neither layers nor steps add to, and reconstructs MRI."
    )
    source = "Putzky & Welling 2019, sections 3 and 4"

    def departures(self, scale: str) -> Sequence[str]:
        """The data and sizes."""
        always = (
            "k-space is SIMULATED from volumes of heads that packages ship, in place of fastMRI's",
            "trained by the L1 distance of magnitudes, in place of SSIM",
            f"{SEEDS} seeds",
        )
        if scale == FULL:
            return ("the single-coil configuration of the challenge without its context", *always)
        return (
            "64 x 64 pixels, 4 steps of 5 layers, 369,728 parameters and 300 training steps in place of 368 x 368, 8 "
            "steps of 12 layers, 275 million parameters and 50 epochs",
            *always,
        )

    def runs(self, scale: str, seed: int) -> list[Run]:
        """Precision and reconstruction of each seed, memory of each size."""
        sizes, seeds = SIZES[scale], range(seed, seed + SEEDS)
        precision = {"kind": PRECISION, "size": 32, "model": SMALL}
        memory = {"kind": MEMORY, "size": sizes["size"], "channels": sizes["channels"], "seed": seed}
        training = {"kind": RECONSTRUCTION, **TRAINING[scale], "volumes": VOLUMES}
        swept = [(steps, A_STEP) for steps in sizes["steps"]]
        swept += [(STEPS, layers) for layers in sizes["layers"] if (STEPS, layers) not in swept]
        return [
            *(Run(f"inverse, seed {each}", {**precision, "seed": each}) for each in seeds),
            *(
                Run(
                    f"memory, {steps} x {layers} layers",
                    {**memory, "steps": steps, "factors": [FACTORS[n % 5] for n in range(layers)]},
                )
                for steps, layers in swept
            ),
            *(Run(f"reconstruction, seed {each}", {**training, "seed": each}) for each in seeds),
        ]

    def measure(self, config: Mapping[str, Any], device: str, progress: Progress) -> Measurement:
        """As the run's kind has it."""
        torch.manual_seed(config["seed"])
        return MEASURES[config["kind"]](config, device, progress)

    def claims(self, found: Sequence[Found]) -> list[Claim]:
        """Inverse, gradient, memory, reconstruction."""
        return [
            *_precision_claims([each.numbers for each in with_config(found, kind=PRECISION)]),
            *(claim for sweep in SWEEPS for claim in _memory_claims(found, sweep)),
            *(_reconstruction_claim(found, acceleration) for acceleration in CENTRES),
        ]

    def tables(self, found: Sequence[Found]) -> list[Table]:
        """Errors, bytes and qualities."""
        dtypes, metrics = ("float32", "float64"), {"psnr": "PSNR, dB", "ssim": "SSIM", "nmse": "NMSE"}
        precision = with_config(found, kind=PRECISION)
        errors = [
            [words, *(over_seeds([each.numbers[dtype][kind] for each in precision]) for dtype in dtypes)]
            for kind, words in ERRORS.items()
        ]
        sizes = [
            [
                words,
                str(_size(each, sweep)),
                str(_layers(each)),
                _mebibytes(each, "store"),
                _mebibytes(each, "reversible"),
            ]
            for sweep, words in SWEEPS.items()
            for each in _sweep(found, sweep)
        ]
        judged = [
            [f"{factor}×", words, *(over_seeds(_quality(found, factor, method, metric), 3) for metric in metrics)]
            for factor in CENTRES
            for method, words in METHODS.items()
        ]
        scans = "Reconstruction from SIMULATED k-space of a head that was not learnt from"
        memory = "Peak of activation memory in a training step, MiB"
        return [
            Table("Largest relative error, median and range over seeds", ["", *dtypes], errors),
            Table(memory, ["sweep", "size", "layers in all", "stored", "rebuilt"], sizes),
            Table(scans, ["acceleration", "method", *metrics.values()], judged),
        ]

    def figures(self, found: Sequence[Found]) -> Mapping[str, Any]:
        """Memory over steps and layers, and the panel."""
        figure = new_figure(9.2, 7.2)
        above, below = figure.subfigures(2, 1, height_ratios=(1, 1.6))
        for axes, sweep in zip(above.subplots(1, 2), SWEEPS, strict=True):
            runs = _sweep(found, sweep)
            sizes = [_size(each, sweep) for each in runs]
            for name, words, colour in (("store", "stored", RED), ("reversible", "rebuilt", BLUE)):
                values = [each.numbers[name]["peak"] / 2**20 for each in runs]
                axes.plot(sizes, values, color=colour, marker="o", markersize=4, linewidth=1.5, label=words)
            axes.set(yscale="log", xlabel=SWEEPS[sweep], title="peak of activation memory, MiB")
            axes.set_xscale("log", base=2)
            axes.set_xticks(sizes, [str(size) for size in sizes])
            axes.minorticks_off()
            axes.grid(axis="y")
            axes.tick_params(length=0)
            axes.legend(loc="upper left")
        first = with_config(found, kind=RECONSTRUCTION)[0]
        below.suptitle(
            "a slice of a head that was not learnt from; k-space SIMULATED from a magnitude image; |error| × 4",
            x=0.01, ha="left", fontsize=9.5, color=INK,
        )  # fmt: skip
        rows, notes = _panel(first)
        show(below, rows, notes=notes)
        return {"irim-layer": figure}


def _sweep(found: Sequence[Found], sweep: str) -> list[Found]:
    """Runs of twelve layers a step, or of four steps, from the smallest on."""
    runs = [
        each
        for each in with_config(found, kind=MEMORY)
        if (len(each.config["factors"]) == A_STEP if sweep == "steps" else each.config["steps"] == STEPS)
    ]
    return sorted(runs, key=lambda each: _size(each, sweep))


def _size(one: Found, sweep: str) -> int:
    return one.config["steps"] if sweep == "steps" else len(one.config["factors"])


def _layers(one: Found) -> int:
    return one.config["steps"] * len(one.config["factors"])


def _mebibytes(one: Found, name: str) -> str:
    return f"{one.numbers[name]['peak'] / 2**20:.2f}"


def _quality(found: Sequence[Found], acceleration: int, method: str, metric: str) -> list[float]:
    return [each.numbers[str(acceleration)][method][metric] for each in with_config(found, kind=RECONSTRUCTION)]


def _precision_claims(numbers: Sequence[Mapping[str, Any]]) -> list[Claim]:
    def worst(dtype: str, *kinds: str) -> float:
        return max(one[dtype][kind] for one in numbers for kind in kinds)

    single, double = worst("float32", "layer", "machine"), worst("float64", "layer", "machine")
    gradient, precise = worst("float32", "gradient"), worst("float64", "gradient")
    expected = f"at most {SINGLE:g} in float32 and {DOUBLE:g} in float64, every sample of {len(numbers)} seeds"
    return [
        Claim(
            "The layer, and the whole recurrence of untied ones, inverts to rounding.",
            single <= SINGLE and double <= DOUBLE,
            f"largest relative error {number(single)} in float32, {number(double)} in float64",
            expected,
        ),
        Claim(
            "The gradient by the inverse is the stored one.",
            gradient <= SINGLE and precise <= DOUBLE,
            f"largest relative error {number(gradient)} in float32, {number(precise)} in float64",
            expected,
            "A ReLU that rounding turns changes the gradient at once.",
        ),
    ]


def _memory_claims(found: Sequence[Found], sweep: str) -> list[Claim]:
    runs = _sweep(found, sweep)
    growth = runs[-1].numbers["reversible"]["peak"] / runs[0].numbers["reversible"]["peak"]
    power = exponent([_size(each, sweep) for each in runs], [each.numbers["store"]["peak"] for each in runs])
    return [
        Claim(
            f"Memory does not grow with {sweep}.",
            growth <= FLAT and abs(power - 1) <= LINEAR,
            f"peak {growth:.3f} times from {_layers(runs[0])} to {_layers(runs[-1])} layers in all, where stored it "
            f"grows with the power {power:.2f}",
            f"at most {FLAT:g}; stored 1 within {LINEAR:g}",
        )
    ]


def _reconstruction_claim(found: Sequence[Found], acceleration: int) -> Claim:
    pairs = zip(*(_quality(found, acceleration, method, "psnr") for method in ("irim", "zero")), strict=True)
    gains = [own - other for own, other in pairs]
    return Claim(
        f"Trained in that memory it reconstructs, at {acceleration} times fewer columns of SIMULATED k-space.",
        min(gains) >= GAIN,
        f"PSNR above zero-filled by {over_seeds(gains)} dB",
        f"at least {GAIN:g} dB for every seed",
        "A few hundred steps of training may not be enough.",
    )


def _panel(one: Found) -> tuple[list[tuple[str, Any]], list[list[str]]]:
    """Rows of images, and notes below: a row an acceleration, the truth and the errors beside."""
    rows, notes = [], []
    for acceleration in CENTRES:
        truth, zero, found = one.arrays[f"panel {acceleration}"]
        errors = [4 * (zero - truth).abs(), 4 * (found - truth).abs()]
        rows.append((f"{acceleration}× fewer columns", torch.stack([truth, zero, found, *errors])[:, None]))
        words = [f"PSNR {value:.1f} dB" for value in one.numbers[str(acceleration)]["shown"]]
        notes.append(
            ["all columns", f"zero-filled, {words[0]}", f"i-RIM, {words[1]}", "|error|, zero-filled", "|error|, i-RIM"]
        )
    return rows, notes
