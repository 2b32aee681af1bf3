"""Images that a flow was not trained on, sent there and back: Glow with three couplings, and Residual Flow."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from invertible.data.dataset import DataSet
from invertible.flow import Flow
from invertible.reproduce.experiment import FULL, QUICK, Claim, Experiment, Found, Measurement, Progress, Run, Table
from invertible.reproduce.figures import new_figure
from invertible.reproduce.image_flows import (
    CIFAR_FLOWS,
    COLOURS,
    COUPLINGS,
    NAMES,
    RESIDUAL,
    UNSEEN,
    WRONG,
    image_flow,
    load_images,
    of_flow,
    train,
)
from invertible.reproduce.photographs import patches
from invertible.reproduce.runs import runs_by_seed
from invertible.reproduce.strips import show
from invertible.reproduce.wording import number, over_seeds
from invertible.stability import out_of_distribution, relative_error, round_trip

SETTINGS: dict[str, dict[str, Any]] = {
    QUICK: {
        "data": "digits",
        "glow": {"levels": 2, "depth": 4, "hidden": 32},
        "residual": {"levels": 2, "blocks": 2, "hidden": [32, 32], "fully_connected": 0},
        "iterations": [800, 200],
        "lr": 4e-3,
        "batch": 64,
        "samples": 180,
    },
    FULL: {**CIFAR_FLOWS, "samples": 2000},
}
SEEDS = 3
FLOWS = (*COUPLINGS, RESIDUAL)
# Bits per dimension by which fits may differ where the likelihood does not tell the flows apart.
ALIKE = 0.3
SETS = {
    "test": "test images",
    "constant": "constant",
    "uniform": "uniform",
    "gaussian": "clipped Gaussian",
    "rademacher": "Rademacher",
    "inverted": "inverted",
    "shuffled": "pixels shuffled",
    "other": "photographs",
    "scaled x3": "stretched × 3",
}
# Of each set so many reconstructions are kept for the picture.
KEPT = 32


class OODReconstruction(Experiment):
    """Figure 2 of Behrmann et al. (2021): reconstructions of images in and out of distribution."""

    name = "ood-reconstruction"
    title = (
        "A Glow with affine couplings reconstructs its own data and loses images from elsewhere; Residual Flow, and "
        "Glow with additive or bounded couplings, reconstruct both."
    )
    source = "Behrmann et al. 2021, figure 2"

    def departures(self, scale: str) -> Sequence[str]:
        """Sets, seeds, solver; at the quick scale the data and the flows."""
        always = (
            "flows of three seeds, trained here, in place of one published model each",
            "additive and bounded couplings beside the two models of the paper",
            "photographs of scikit-learn in place of textures, places, TinyImageNet and SVHN; constant, inverted, "
            "shuffled and stretched images besides",
            "the Residual Flow is inverted to the rounding of float32, not to a step of 3e-3",
        )
        if scale == FULL:
            return always
        return (
            "digits of 8 x 8 pixels, Glow of 2 levels of 4 steps with 32 channels, Residual Flow of 2 levels of 2 "
            "blocks with 32 channels, 800 and 200 iterations of 64 images, in place of CIFAR-10 and models of 3 levels "
            "of 32 steps and 16 blocks with 512 channels",
            *always,
        )

    def runs(self, scale: str, seed: int) -> list[Run]:
        """A run for each flow and seed."""
        return runs_by_seed(FLOWS, SETTINGS[scale], range(seed, seed + SEEDS))

    def measure(self, config: Mapping[str, Any], device: str, progress: Progress) -> Measurement:
        """Train, and send every set there and back."""
        torch.manual_seed(config["seed"])
        images = load_images(config)
        flow = image_flow(config, images).to(device)
        fit = train(flow, images, config, device, lambda part: progress(0.95 * part))
        sets, arrays = {}, {}
        for name, x in image_sets(images, config["samples"], config["seed"]).items():
            sets[name], back = reconstruct(flow, x.to(device))
            arrays[f"{name}: x"], arrays[f"{name}: back"] = x[:KEPT], back[:KEPT]
        progress(1.0)
        return Measurement({**fit, "sets": sets}, arrays)

    def claims(self, found: Sequence[Found]) -> list[Claim]:
        """In distribution all flows hold; out of it the affine one alone does not."""
        inside = [each.numbers["sets"]["test"]["worst"] for each in found]
        broken = [_broken_sets(each) for each in of_flow(found, "affine")]
        lost = [sum(each.numbers["sets"][name]["wrong"] for name in SETS) for each in of_flow(found, "affine")]
        bits = {flow: [each.numbers["validation bits"] for each in of_flow(found, flow)] for flow in COUPLINGS}
        apart = [_spread(seed) for seed in zip(*bits.values(), strict=True)]
        return [
            Claim(
                "In distribution every flow reconstructs every image.",
                max(inside) <= UNSEEN,
                f"worst error, relative to |x|, of {over_seeds(inside)}".replace("seeds", "runs"),
                f"at most {UNSEEN:g} for every flow and seed",
            ),
            Claim(
                "Out of distribution Glow with affine couplings loses images of several kinds.",
                min(broken) >= 2,
                f"{over_seeds(broken)} of {len(SETS) - 1} sets with an image off by {WRONG:.0%} or more, or not "
                f"finite; {over_seeds(lost, 3)} such images",
                "at least two sets for every seed",
                "A shorter training ends before the scales come near 0.",
            ),
            *(self._held(found, flow) for flow in FLOWS if flow != "affine"),
            Claim(
                "The likelihood does not tell the three couplings apart.",
                max(apart) <= ALIKE,
                f"bits per dimension of unseen images apart by {over_seeds(apart)}",
                f"at most {ALIKE:g} for every seed",
                "Additive couplings, which can only shift, are still behind after so short a training.",
            ),
        ]

    def _held(self, found: Sequence[Found], flow: str) -> Claim:
        worst = [max(one["worst"] for one in each.numbers["sets"].values()) for each in of_flow(found, flow)]
        entries = [one for each in of_flow(found, flow) for one in each.numbers["sets"].values()]
        refused = int(sum(one["refused"] for one in entries))
        besides = f"; {refused} images outside of [0, 1] are refused" if refused else ""
        return Claim(
            f"{_title(flow)}: every image of every set comes back.",
            max(worst) <= UNSEEN,
            f"worst error, relative to |x|, of {over_seeds(worst)}{besides}",
            f"at most {UNSEEN:g} for every seed",
        )

    def tables(self, found: Sequence[Found]) -> list[Table]:
        """Median and worst error of each set and flow over the seeds, and images that are wrong."""
        rows = []
        for name, title in SETS.items():
            cells = [title]
            for flow in FLOWS:
                cells.append(_cell([each.numbers["sets"][name] for each in of_flow(found, flow)]))
            rows.append(cells)
        fits = [number(_mean([each.numbers["validation bits"] for each in of_flow(found, flow)]), 3) for flow in FLOWS]
        rows.append(["bits per dimension, unseen images", *fits])
        title = (
            f"Errors |x − f⁻¹(f(x))|/|x|: median, worst; images of all seeds that are off by {WRONG:.0%} or more or "
            "not finite, where there are any"
        )
        return [Table(title, ["set", *(_title(flow) for flow in FLOWS)], rows)]

    def figures(self, found: Sequence[Found]) -> Mapping[str, Any]:
        """Errors of every set, and for each the image that the affine flow reconstructs worst."""
        figure = new_figure(9.2, 8.2)
        above, below = figure.subfigures(2, 1, height_ratios=(1, 1.25))
        _errors(above.subplots(), found)
        affine = of_flow(found, "affine")
        picked = {name: max((_badness(each, name), at) for at, each in enumerate(affine))[1] for name in SETS}
        where = {name: (at, worst_row(affine[at], name)) for name, at in picked.items()}
        originals = torch.stack([affine[at].arrays[f"{name}: x"][row] for name, (at, row) in where.items()])
        rows, notes = [("x", originals)], [list(SETS.values())]
        for flow in FLOWS:
            backs = [_back(of_flow(found, flow)[at], name, row) for name, (at, row) in where.items()]
            rows.append((flow, torch.stack([image for image, _ in backs])))
            notes.append([note for _, note in backs])
        show(below, rows, notes=notes)
        return {"ood-reconstruction": figure}


def image_sets(images: DataSet, samples: int, seed: int) -> dict[str, Tensor]:
    """Test images and what is far from them, by name, with values in [0, 1] but for those stretched."""
    generator = torch.Generator().manual_seed(seed)
    levels = images.levels or 256
    unseen = images.test.x[:samples]
    other = patches(len(unseen), images.shape, levels, generator)
    centres = (unseen.float() + 0.5) / levels
    made = {"test": centres} | out_of_distribution(centres, levels=levels, other=other, generator=generator)
    return {name: made[name] for name in SETS}


def reconstruct(flow: Flow, x: Tensor) -> tuple[dict[str, float], Tensor]:
    """Relative errors of a set, and the reconstructions; NaN where nothing came back."""
    trip = round_trip(flow.bijection, x, batch_size=512)
    data = trip.data
    return {
        "median": data.median if len(data.measured) else 0.0,
        "worst": data.worst if len(data.measured) else 0.0,
        "wrong": int((data.measured >= WRONG).sum()),
        "lost": data.non_finite,
        "refused": int(data.refused.sum()),
        "samples": len(x),
    }, trip.reconstruction.detach().cpu()


def worst_row(found: Found, name: str) -> int:
    """Of the images that are kept, the one whose reconstruction is worst."""
    return int(_badnesses(found, name).argmax())


def _badness(found: Found, name: str) -> float:
    return float(_badnesses(found, name).max())


def _badnesses(found: Found, name: str) -> Tensor:
    """Error of each image that is kept; where pixels are not finite, their number more than the largest error."""
    x, back = found.arrays[f"{name}: x"].double(), found.arrays[f"{name}: back"].double()
    broken = (~back.isfinite()).flatten(1).sum(1)
    errors = (back - x).flatten(1).nan_to_num(nan=0.0, posinf=0.0, neginf=0.0).norm(dim=1).clamp(max=1e6)
    return torch.where(broken > 0, 1e6 + broken, errors)


def _back(found: Found, name: str, row: int) -> tuple[Tensor, str]:
    """What came back for an image, and what to write below it: its error, or that it was refused."""
    x, back = found.arrays[f"{name}: x"], found.arrays[f"{name}: back"]
    if found.numbers["sets"][name]["refused"]:
        return torch.ones_like(x[row]), "refused"
    error = float(relative_error(x, back)[row])
    return back[row], number(error, 1) if error < 1e4 else "> 10⁴" if math.isfinite(error) else "not finite"


def _broken_sets(found: Found) -> int:
    return sum(one["wrong"] > 0 for name, one in found.numbers["sets"].items() if name != "test")


def _title(flow: str) -> str:
    return NAMES[flow] if flow == RESIDUAL else f"Glow, {NAMES[flow]}"


def _spread(values: Sequence[float]) -> float:
    return max(values) - min(values) if all(map(math.isfinite, values)) else math.inf


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _cell(entries: Sequence[Mapping[str, float]]) -> str:
    if all(one["refused"] for one in entries):
        return "refused: not in [0, 1]"
    median = sorted(one["median"] for one in entries)[len(entries) // 2]
    text = f"{number(median)}, {number(max(one['worst'] for one in entries))}"
    wrong, samples = (int(sum(one[key] for one in entries)) for key in ("wrong", "samples"))
    return f"{text}; {wrong} of {samples}" if wrong else text


def _errors(axes: Any, found: Sequence[Found]) -> None:  # noqa: ANN401
    """Worst and median errors by set and flow, a mark for each seed; those that are not finite above."""
    top = 1e3
    for index, flow in enumerate(FLOWS):
        for at, each in enumerate(of_flow(found, flow)):
            names = [name for name in SETS if not each.numbers["sets"][name]["refused"]]
            x = [list(SETS).index(name) + 0.19 * (index - 1.5) + 0.04 * (at - 1) for name in names]
            for key, mark in (("median", "_"), ("worst", "o")):
                y = [min(each.numbers["sets"][name][key], top) for name in names]
                inside = [(a, b) for a, b in zip(x, y, strict=True) if b < top]
                beyond = [a for a, b in zip(x, y, strict=True) if b >= top]
                label = _title(flow) if at == 0 and key == "worst" else None
                points = tuple(zip(*inside, strict=True)) or ((), ())
                axes.plot(*points, mark, color=COLOURS[flow], markersize=4.5, label=label)
                axes.plot(beyond, [top] * len(beyond), "x" if key == "worst" else mark, color=COLOURS[flow])
    axes.axhline(WRONG, color="#9aa0a8", linewidth=0.7, linestyle=(0, (4, 3)))
    axes.set(yscale="log", ylim=(3e-8, 1e6), ylabel="|x − f⁻¹(f(x))| / |x|")
    axes.set_yticks([10.0**power for power in range(-7, 4, 2)])
    axes.set_xticks(range(len(SETS)), [title.replace(" ", "\n", 1) for title in SETS.values()], fontsize=8)
    axes.set_title("worst (dot) and median (line) error of three seeds; × above: larger than 1,000 or not finite")
    axes.legend(loc="upper left", fontsize=8, ncols=4)
    axes.grid(axis="y")
    axes.tick_params(length=0)
