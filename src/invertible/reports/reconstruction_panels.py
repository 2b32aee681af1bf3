"""Panels of reconstructions: methods side by side, what they miss below them, and what they were made from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from invertible.errors import ConfigError, ShapeError, require
from invertible.reports.representation_style import INK, MUTED, figure_style
from invertible.reports.svg import new_figure

OWNER = "reconstruction_panels"
# Magenta marks what is not finite, as in the pictures of an audit.
BROKEN = (1.0, 0.0, 0.85)
AMPLIFICATIONS = (50, 20, 10, 5, 2, 1)
CELL = 1.75


@dataclass(frozen=True, eq=False)
class Panel:
    """One slice as several methods reconstruct it.

    Attributes:
        title: what it is, such as `"mni152-axial.h5, slice 12"`.
        estimates: magnitudes (h, w) by the methods' names, in the order of the columns.
        truth: what they should be, (h, w); `None` where it is not known: there are no error maps then.
        mask: the measured columns of k-space, (W,), true.
        maximum: the largest value of the volume, of which errors are parts; that of the slice by default.
        notes: what to write below an estimate, by the method's name.
        simulated: whether k-space was computed from images; the caption says so.
    """

    title: str
    estimates: dict[str, Tensor]
    truth: Tensor | None = None
    mask: Tensor | None = None
    maximum: float | None = None
    notes: dict[str, str] = field(default_factory=dict)
    simulated: bool = False

    @property
    def scale(self) -> float:
        """What errors are divided by."""
        reference = self.truth if self.truth is not None else next(iter(self.estimates.values()))
        return self.maximum or float(reference.max()) or 1.0


def reconstruction_panels(
    panels: Sequence[Panel], *, amplification: float | None = None, caption: str = "", truth: str = "all columns"
) -> Any:  # noqa: ANN401
    """Two rows a slice: images in one grey window, and |error| over the volume's maximum in one colour scale for all.

    Below the truth stand the measured columns of k-space. Pixels that are not finite are magenta.

    Args:
        panels: the slices, of the same methods.
        amplification: the colour scale ends at 1 / amplification of the volume's maximum; the largest of 50, 20, 10, 5,
            2 and 1 that shows 97 % of the first panel's first method's errors by default.
        caption: a line below all.
        truth: title of the last column.

    Returns:
        A matplotlib figure.

    Raises:
        ConfigError: if there is no panel, or panels are of different methods.
        ShapeError: if the images of a panel differ in shape, or are not of two axes.
        MissingDependencyError: if matplotlib is not installed.
    """
    _check(panels)
    factor = amplification or _amplification(panels)
    names = list(panels[0].estimates)
    rows = [(panel, errors) for panel in panels for errors in (False, True) if not errors or panel.truth is not None]
    heights = [panel.estimates[names[0]].shape[0] / panel.estimates[names[0]].shape[1] for panel, _ in rows]
    with figure_style():
        figure = new_figure(CELL * (len(names) + 1) + 1.0, CELL * sum(heights) + 0.22 * len(rows) + 0.7)
        figure.get_layout_engine().set(w_pad=0.02, h_pad=0.02, wspace=0.01, hspace=0.01)
        axes = figure.subplots(len(rows), len(names) + 1, squeeze=False, height_ratios=heights)
        drawn = None
        for row, (panel, errors) in zip(axes, rows, strict=True):
            drawn = (_error_row(row, panel, factor) if errors else _image_row(row, panel)) or drawn
        for one, name in zip(axes[0], [*names, truth if panels[0].truth is not None else ""], strict=True):
            one.set_title(name, loc="center", fontsize=9.5, color=INK)
        if drawn is not None:
            _colour_bar(figure, drawn, axes[:, -1], factor)
        figure.supxlabel(_caption(panels, caption), fontsize=8, color=MUTED)
    return figure


def _image_row(row: Any, panel: Panel) -> None:  # noqa: ANN401
    reference = panel.truth if panel.truth is not None else next(iter(panel.estimates.values()))
    values = reference[reference.isfinite()].float()
    # A few bright vessels would leave the tissue dark.
    top = float(values.kthvalue(max(1, round(0.998 * len(values)))).values) if len(values) else 1.0
    for one, (name, image) in zip(row, panel.estimates.items(), strict=False):
        _show(one, image, top or 1.0, "gray")
        one.set_xlabel(panel.notes.get(name, ""), fontsize=7.5, color=INK, labelpad=2)
    if panel.truth is not None:
        _show(row[-1], panel.truth, top or 1.0, "gray")
    else:
        _mask(row[-1], panel)
    row[0].set_ylabel(panel.title, fontsize=8, color=INK)


def _error_row(row: Any, panel: Panel, factor: float) -> Any:  # noqa: ANN401
    assert panel.truth is not None
    drawn = None
    for one, image in zip(row, panel.estimates.values(), strict=False):
        drawn = _show(one, (image - panel.truth).abs() / panel.scale, 1 / factor, "inferno")
    row[0].set_ylabel(f"error × {factor:g}", fontsize=8, color=MUTED)
    _mask(row[-1], panel)
    return drawn


def _mask(axes: Any, panel: Panel) -> None:  # noqa: ANN401
    """The measured columns, white, as a strip a sixth of the image high."""
    if panel.mask is None:
        axes.set_axis_off()
        return
    height, width = next(iter(panel.estimates.values())).shape
    strip = panel.mask.float()[None].expand(max(1, round(len(panel.mask) * height / width / 6)), -1)
    _show(axes, strip, 1.0, "gray")
    measured = int(panel.mask.sum())
    axes.set_xlabel(f"k-space: {measured} of {len(panel.mask)} columns", fontsize=7.5, color=MUTED, labelpad=2)


def _show(axes: Any, image: Tensor, top: float, colours: str) -> Any:  # noqa: ANN401
    colour_map = require("matplotlib", "report").colormaps[colours].with_extremes(bad=BROKEN)
    pixels = image.detach().cpu().double()
    shown = torch.where(pixels.isfinite(), pixels, torch.nan).numpy()
    drawn = axes.imshow(shown, cmap=colour_map, vmin=0, vmax=top, interpolation="nearest")
    axes.set(xticks=[], yticks=[])
    for side in axes.spines.values():
        side.set_visible(False)
    return drawn


def _colour_bar(figure: Any, drawn: Any, axes: Any, factor: float) -> None:  # noqa: ANN401
    bar = figure.colorbar(drawn, ax=list(axes), shrink=0.4, aspect=25, pad=0.02)
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=0, labelsize=7.5)
    bar.set_ticks([0, 0.5 / factor, 1 / factor], labels=["0", f"{50 / factor:g} %", f"{100 / factor:g} %"])
    bar.set_label("|error|, of the volume's maximum", fontsize=8, color=MUTED)


def _caption(panels: Sequence[Panel], caption: str) -> str:
    simulated = [panel.simulated for panel in panels]
    if not any(simulated):
        return caption
    which = "SIMULATED k-space" if all(simulated) else "SIMULATED k-space in part"
    return f"{which}; {caption}" if caption else which


def _amplification(panels: Sequence[Panel]) -> float:
    for panel in panels:
        if panel.truth is None:
            continue
        error = (next(iter(panel.estimates.values())) - panel.truth).abs().flatten().double() / panel.scale
        error = error[error.isfinite()]
        if len(error):
            largest = float(error.kthvalue(max(1, round(0.97 * len(error)))).values)
            return next((each for each in AMPLIFICATIONS if largest * each <= 1), 1)
    return 1


def _check(panels: Sequence[Panel]) -> None:
    if not panels or not panels[0].estimates:
        raise ConfigError(f"{OWNER}: expected at least one panel with an estimate, got none.")
    for panel in panels:
        if list(panel.estimates) != list(panels[0].estimates):
            raise ConfigError(
                f"{OWNER}: expected panels of {', '.join(panels[0].estimates)}, as the first is, got "
                f"{', '.join(panel.estimates)} in {panel.title!r}."
            )
        images = [*panel.estimates.values(), *([] if panel.truth is None else [panel.truth])]
        shapes = {tuple(image.shape) for image in images}
        if len(shapes) != 1 or len(images[0].shape) != 2:
            raise ShapeError(
                f"{OWNER}: expected images of one shape (height, width) in {panel.title!r}, got "
                f"{', '.join(map(str, sorted(shapes)))}."
            )
