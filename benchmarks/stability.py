"""Who keeps the inverse? Flows of several libraries, trained alike on digits, audited far from them.

python benchmarks/stability.py [--layers 8 32] [--libraries invertible nflows ...] [--steps 1500]

RealNVP on 64 pixels: couplings with two hidden layers of 128 units, each library in its default form; Adam 1e-3,
batches of 128, dequantised digits on [0, 1]. Judged twice: at the end of training, and with the weights that were best
on held-out digits. Sets: those of the audit, 8 x 8 patches of photographs, latents, and samples that an attack found
within 0.03 and 0.1 of digits. Exit status 1 if this library loses a sample, is off by 1e-3 anywhere, or fits held-out
digits worse than the best of the others.
"""

import importlib
import sys
import warnings

import _digits_flows
import _record
import torch
from _digits_flows import SETS, TRAIN
from torch import nn

import invertible as inv
from invertible.distributions import StandardNormal

OURS, TOLERANCE = "invertible", 1e-3
LIBRARIES = (OURS, "nflows", "normflows", "FrEIA", "zuko")


def build(library: str, layers: int) -> nn.Module:
    """The library's RealNVP."""
    torch.manual_seed(0)
    if library == OURS:
        return inv.models.realnvp(64, layers=layers, hidden=(128, 128))
    module = importlib.import_module(f"peers.with_{library.lower()}")
    return getattr(module, "all_in_one", module.realnvp)(layers).module


def row(library: str, layers: int, when: str, found: dict) -> list[str]:
    """A line of the table."""
    return [library, str(layers), when, f"{found['fit'][when]:.1f}", *_digits_flows.cells(found[when])]


def missed(results: dict[int, dict[str, dict]]) -> list[str]:
    """What this library fails."""
    found = []
    for layers, libraries in results.items():
        ours = libraries.get(OURS)
        if ours is None:
            continue
        for when in ("best", "last"):
            lost = _digits_flows.failures(ours[when], TOLERANCE)
            found += [f"{layers} layers, {when} weights, {what}" for what in lost]
        others = [each["fit"]["best"] for name, each in libraries.items() if name != OURS]
        if others and ours["fit"]["best"] > min(others):
            found.append(f"{layers} layers: fits {ours['fit']['best']:.1f}, the best of the others {min(others):.1f}")
    return found


def main() -> int:
    parser = _record.parser(__doc__)
    parser.add_argument("--layers", type=int, nargs="+", default=[8, 32])
    parser.add_argument("--libraries", nargs="+", choices=LIBRARIES, default=list(LIBRARIES))
    parser.add_argument("--steps", type=int, default=1500)
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    x, held_out = _digits_flows.digits()
    results: dict[int, dict[str, dict]] = {}
    skipped = {}
    for layers in options.layers:
        results[layers] = {}
        for library in options.libraries:
            try:
                flow = inv.adapt(build(library, layers))
                flow = flow if isinstance(flow, inv.Flow) else inv.Flow(flow, StandardNormal((64,)))
            except ImportError as error:
                skipped[library] = f"not installed ({error})"
                continue
            fit = _digits_flows.train(flow, x[:TRAIN], held_out, options.steps)
            last = _digits_flows.judge(flow.eval(), held_out)
            flow.load_state_dict(fit.pop("weights"))
            results[layers][library] = {"fit": fit, "last": last, "best": _digits_flows.judge(flow, held_out)}
            print(row(library, layers, "last", results[layers][library]), flush=True)
    titles = ["", "couplings", "weights", "held-out nats", *SETS]
    rows = [
        row(library, layers, when, found)
        for layers, libraries in results.items()
        for library, found in libraries.items()
        for when in ("best", "last")
    ]
    failures = missed(results)
    text = "Largest relative error of both round trips in float32 over 256 samples, 64 for attacks; samples lost.\n\n"
    text += _record.table(titles, rows) + "\n\n"
    text += "".join(f"{library}: {why}\n" for library, why in skipped.items())
    text += "All limits met." if not failures else "Missed: " + "; ".join(failures) + "."
    versions = _record.environment("invertible", "nflows", "normflows", "FrEIA", "zuko", "scikit-learn")
    data = {"environment": versions, "steps": options.steps, "results": results, "missed": failures}
    _record.write(options.out, "stability", "Who keeps the inverse?", text, data)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
