"""Memory and accuracy of RevNet beside ResNet: draws docs/images/revnet.png from the benchmarks' newest results.

python benchmarks/revnet_memory.py; python benchmarks/reversible_classifiers.py; python docs/figures/revnet.py
"""

import json
import statistics
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt

DOCS = Path(__file__).parents[1]
RESULTS = DOCS.parent / "benchmarks" / "results"
SERIES = {
    ("Res", "store"): ("ResNet, stored", "#9aa5b1"),
    ("Rev", "store"): ("RevNet, stored", "#c9b27c"),
    ("Rev", "checkpoint"): ("RevNet, √L checkpoints", "#7fb3c8"),
    ("Rev", "reversible"): ("RevNet, reversible", "#24527a"),
}


def newest(name: str) -> list[dict]:
    """All records of a benchmark's last day."""
    paths = sorted(RESULTS.glob(f"{name}*.json"), key=lambda path: path.stem.rsplit("_", 1)[1])
    last = paths[-1].stem.rsplit("_", 1)[1]
    return [json.loads(path.read_text()) for path in paths if path.stem.endswith(last)]


def draw_memory(axes: plt.Axes, rows: list[dict]) -> None:
    """Bars by depth, and what the paper keeps."""
    depths = [int(row["network"].split("-")[1]) for row in rows if row["strategy"] == "reversible"]
    for offset, ((kind, strategy), (label, colour)) in enumerate(SERIES.items()):
        chosen = [row for row in rows if row["network"].startswith(kind) and row["strategy"] == strategy]
        places = [index + 0.2 * (offset - 1.5) for index in range(len(chosen))]
        axes.bar(places, [row["held"] / 2**20 for row in chosen], 0.18, color=colour, label=label)
    papers = [row["paper"] / 2**20 for row in rows if row["strategy"] == "reversible"]
    axes.hlines(papers, [i + 0.2 for i in range(len(papers))], [i + 0.4 for i in range(len(papers))], color="#c0392b",
                lw=2, label="RevNet, as the paper counts")  # fmt: skip
    axes.set_yscale("log")
    axes.set_xticks(range(len(depths)), [f"RevNet-{d}\nResNet-{32 if d == 38 else d}" for d in depths])
    axes.set_ylabel("MiB held between forward and backward")
    # The paper's 89,088 numbers an image for RevNet-38 tell the batch.
    axes.set_title(f"Memory, batch of {round(papers[0] * 2**20 / 4 / 89_088)} at 32 × 32", loc="left", fontsize=11)
    axes.legend(frameon=False, fontsize=8, loc="upper left")
    axes.set_ylim(top=axes.get_ylim()[1] * 6)


def draw_accuracy(axes: plt.Axes, runs: list[dict]) -> None:
    """A dot a seed, and the means."""
    names = list(dict.fromkeys((run["data"], run["network"]) for run in runs))
    for place, (data, network) in enumerate(names):
        values = [run["accuracy"] for run in runs if (run["data"], run["network"]) == (data, network)]
        colour = "#24527a" if network.startswith("Rev") else "#9aa5b1"
        axes.plot([place] * len(values), values, "o", color=colour, alpha=0.6, ms=6)
        mean = statistics.mean(values)
        axes.hlines(mean, place - 0.3, place + 0.3, color=colour, lw=2.5)
        axes.annotate(f"{mean:.2f}", (place + 0.33, mean), va="center", fontsize=9, color=colour)
    axes.set_xticks(range(len(names)), [f"{network}\n{data}" for data, network in names], fontsize=8)
    axes.set_xlim(-0.6, len(names) - 0.2)
    axes.set_ylabel("test accuracy, %")
    axes.set_title("Accuracy, a dot a seed", loc="left", fontsize=11)


def main() -> None:
    """Both panels."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), constrained_layout=True)
    draw_memory(left, [row for record in newest("revnet-memory") for row in record["published"]])
    draw_accuracy(right, [run for record in newest("reversible-classifiers") for run in record["runs"]])
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(DOCS / "images" / "revnet.png", dpi=130)


if __name__ == "__main__":
    main()
