"""Reconstructions as tables, records and panels."""

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from torch import Tensor

from invertible.cli.output import number, table
from invertible.cli.prediction_tables import finite_or_none
from invertible.cli.reconstruction import ChosenMethod, Done, Shown
from invertible.image_metrics import Quality
from invertible.reports.reconstruction_panels import Panel, reconstruction_panels
from invertible.reports.representation_style import png
from invertible.training.pictures import write_atomically

MEASURES = ("nmse", "psnr", "ssim")
START = "zero-filled"


def report(done: Sequence[Done], method: str, out: Console) -> None:
    """Print a row a volume; with several that have a target, mean and standard deviation, too."""
    judged = [each for each in done if each.quality is not None]
    made = _table(done, method, with_figures=bool(judged))
    for each in done:
        made.add_row(each.header.name, str(each.slices), _columns(each), *_cells(each, method) if judged else ())
    if len(judged) > 1:
        made.add_section()
        for name, measure in (("mean", statistics.mean), ("standard deviation", statistics.stdev)):
            figures = [
                measure([getattr(quality, each) for quality in group])
                for group in _groups(judged, method)
                for each in MEASURES
            ]
            cells = [number(value, _digits(place)) for place, value in enumerate(figures)]
            made.add_row(name, "", "", *cells)
    out.print(made)


def write_panels(path: Path, done: Sequence[Done], method: str) -> None:
    """Draw the slices that were kept, and write a PNG."""
    panels = [
        Panel(
            title=f"{each.header.name}\nslice {shown.index}",
            estimates=_estimates(shown, method),
            truth=shown.target,
            mask=each.mask,
            maximum=each.maximum,
            notes=_notes(each, shown, method),
            simulated=each.header.simulated,
        )
        for each in done
        for shown in each.shown
    ]
    # The volume that a slice was to be shown of may have been left out.
    if panels:
        write_atomically(path, png(reconstruction_panels(panels)))


def write_json(path: Path, done: Sequence[Done], problems: Mapping[str, str], method: ChosenMethod) -> None:
    """Write every figure: `null` for what is not finite or not known."""
    record = {
        "method": method.name,
        "model": None if method.model is None else str(method.model),
        "simulated": any(each.header.simulated for each in done),
        "volumes": [_record(each) for each in done],
        "left_out": dict(problems),
    }
    write_atomically(path, (json.dumps(record, indent=2, allow_nan=False, ensure_ascii=False) + "\n").encode())


def _table(done: Sequence[Done], method: str, *, with_figures: bool) -> Table:
    simulated = sum(each.header.simulated for each in done)
    origin = "" if not simulated else ", SIMULATED k-space" if simulated == len(done) else ", SIMULATED k-space in part"
    heads = ["NMSE", "PSNR in dB", "SSIM"]
    starts = [] if method == START else [f"{START}: {heads[0]}", *heads[1:]]
    return table(f"{method}{origin}", "volume", "slices", "columns", *[*heads, *starts] if with_figures else ())


def _groups(judged: Sequence[Done], method: str) -> list[list[Quality]]:
    groups = [[each.quality for each in judged if each.quality is not None]]
    if method != START:
        groups.append([each.zero_filled_quality for each in judged if each.zero_filled_quality is not None])
    return groups


def _cells(each: Done, method: str) -> list[str]:
    qualities = [each.quality, *([] if method == START else [each.zero_filled_quality])]
    values = [None if quality is None else getattr(quality, name) for quality in qualities for name in MEASURES]
    return ["" if value is None else number(value, _digits(place)) for place, value in enumerate(values)]


def _digits(place: int) -> int:
    return 2 if place % 3 == 1 else 4


def _columns(each: Done) -> str:
    return f"{int(each.mask.sum())} of {len(each.mask)}"


def _estimates(shown: Shown, method: str) -> dict[str, Tensor]:
    return {START: shown.zero_filled} if method == START else {START: shown.zero_filled, method: shown.image}


def _notes(each: Done, shown: Shown, method: str) -> dict[str, str]:
    notes: dict[str, str] = {}
    if shown.target is None:
        return notes
    for name, image in _estimates(shown, method).items():
        found = Quality.of(shown.target[None], image[None], each.maximum)
        psnr = f"{found.psnr:.1f} dB" if math.isfinite(found.psnr) else "exact"
        notes[name] = f"{psnr}, SSIM {found.ssim:.3f}"
    return notes


def _record(each: Done) -> dict[str, Any]:
    def figures(quality: Quality | None) -> dict[str, float | None] | None:
        return None if quality is None else {name: finite_or_none(getattr(quality, name)) for name in MEASURES}

    return {
        "volume": each.header.name,
        "out": str(each.out),
        "slices": each.slices,
        "coils": each.header.coils,
        "columns": len(each.mask),
        "measured_columns": int(each.mask.sum()),
        "simulated": each.header.simulated,
        "seconds": each.seconds,
        "reconstruction": figures(each.quality),
        "zero_filled": figures(each.zero_filled_quality),
    }
