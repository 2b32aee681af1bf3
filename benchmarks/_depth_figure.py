"""Memory and time against depth, drawn on logarithmic axes."""

from collections.abc import Callable
from pathlib import Path

MEBIBYTE = 2**20
INK, GREY = "#222222", "#777777"
# Panels: title, unit, and the value from a competitor's figures and the depth.
PANELS = (
    ("Memory held between the passes", "MiB", lambda entry, _: entry["held"] / MEBIBYTE),
    ("Peak of memory in the backward pass", "MiB", lambda entry, _: entry["backward_peak"] / MEBIBYTE),
    # A line that is level is linear in depth, and factors can be seen, which they cannot on the steps themselves.
    ("Time of a training step, per block", "milliseconds", lambda entry, length: 1e3 * entry["seconds"] / length),
)
# Ours are solid and thick, others thin and on top: name, label, colour, marker.
OURS = (
    ("store", "store", INK, "o"),
    ("checkpoint", "checkpoint", "#d55e00", "s"),
    ("recursive", "recursive", "#e69f00", "^"),
    ("budget", "budget of 64 MiB", "#cc79a7", "v"),
    ("reversible", "reversible, guarded", "#0072b2", "D"),
    ("exact", "exact", "#009e73", "P"),
)
OTHERS = (
    ("plain", "PyTorch", INK, "o"),
    ("torch_block", "torch checkpoint, a block", "#d55e00", "s"),
    ("torch_root", "torch checkpoint, √L", "#d55e00", "x"),
    ("hand_min", "hand-written minimum", "#0072b2", "*"),
    ("memcnn", "MemCNN", "#56b4e9", "<"),
    ("revtorch", "RevTorch", "#56b4e9", ">"),
    ("revlib", "revlib", "#882255", "1"),
    ("revlib_graph", "revlib, graph mode", "#882255", "2"),
    ("minrev", "minREV", "#999933", "+"),
    ("invtorch", "invtorch", "#999933", "3"),
    ("freia", "FrEIA", GREY, "h"),
)


def draw(figures: dict[str, dict[int, dict[str, float]]], path: Path) -> None:
    """Write a PNG with one panel a quantity; without matplotlib, say so and go on."""
    try:
        import matplotlib
    except ImportError:
        print("matplotlib is not installed: no figure. pip install matplotlib")
        return
    matplotlib.use("Agg")
    from matplotlib import pyplot

    style = {"font.size": 10, "axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": GREY}
    with pyplot.rc_context(style):
        figure, axes = pyplot.subplots(1, len(PANELS), figsize=(13, 4.9), layout="constrained")
        lengths = sorted({length for by_length in figures.values() for length in by_length})
        for panel, (title, unit, value) in zip(axes, PANELS, strict=True):
            _panel(panel, figures, value)
            panel.set_title(title, loc="left", fontsize=11, color=INK)
            panel.set_ylabel(unit, color=INK)
            _ticks(panel, lengths)
        _legends(figure, axes[0])
        figure.suptitle("Training a chain of reversible residual blocks", x=0.01, ha="left", fontsize=13, weight="bold")
        figure.savefig(path, dpi=160)
        pyplot.close(figure)
    print(f"Figure: {path}")


def _panel(panel, figures: dict, value: Callable) -> None:
    panel.set_xscale("log", base=2)
    panel.set_yscale("log")
    panel.grid(visible=True, color="#e6e6e6", linewidth=0.8)
    panel.set_axisbelow(True)
    for ours, entries in ((False, OTHERS), (True, OURS)):
        for name, label, colour, marker in entries:
            if name not in figures:
                continue
            x = list(figures[name])
            y = [value(entry, length) for length, entry in figures[name].items()]
            look = {"linewidth": 2.4, "markersize": 6} if ours else {"linewidth": 0.9, "markersize": 5, "alpha": 0.85}
            line = "-" if ours else "--"
            panel.plot(x, y, line, color=colour, marker=marker, label=label, zorder=2 if ours else 3, **look)
    low, high = panel.get_ylim()
    if high < 6 * low:  # so that noise does not fill a panel
        middle = (low * high) ** 0.5
        panel.set_ylim(middle / 6**0.5, middle * 6**0.5)


def _ticks(panel, lengths: list[int]) -> None:
    from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

    panel.set_xlabel("blocks, L", color=INK)
    panel.xaxis.set_major_locator(FixedLocator(lengths))
    panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0f}"))
    panel.xaxis.set_minor_locator(NullLocator())
    panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    panel.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    panel.yaxis.set_minor_locator(NullLocator())
    panel.tick_params(colors=INK, which="both", length=3)


def _legends(figure, panel) -> None:
    """Two legends under the panels: this library, and others."""
    handles, labels = panel.get_legend_handles_labels()
    drawn = dict(zip(labels, handles, strict=True))
    legends = (("this library", OURS, "outside lower left", 3), ("others", OTHERS, "outside lower right", 4))
    for title, entries, where, columns in legends:
        shown = [label for _, label, _, _ in entries if label in drawn]
        options = {"title": title, "loc": where, "ncols": columns, "frameon": False, "alignment": "left"}
        figure.legend([drawn[label] for label in shown], shown, fontsize=9, handlelength=3, **options)
