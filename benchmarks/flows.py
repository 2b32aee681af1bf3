"""How fast are density, inverse and training step, beside hand-written code and other libraries?

python benchmarks/flows.py [realnvp] [spline] [glow] [--rounds 15] [--threads 1]

Exit status 1 if this library misses a limit: 1.10 x the floor, or the fastest other library.
"""

import statistics
import sys
import warnings

import _record
import _timing
import peers
import torch

FLOOR_LIMIT = 1.10
QUANTITIES = {"log_prob": "log_prob", "inverse": "inverse", "step": "training step"}
TITLE = "Speed of {case}: batch {batch} of {shape}, CPU time of one process, medians of {rounds} interleaved rounds"


def competitor(library: str, case: str, x: torch.Tensor) -> dict | None:
    """A library's calls and figures, after warm-up and a check of the round trip; `None` if it has no such flow."""
    torch.manual_seed(0)
    model = peers.build(library, case)
    if model is None:
        return None
    model.log_prob(x)
    optimizer = torch.optim.Adam(model.module.parameters(), 1e-4, fused=True)

    def step():
        optimizer.zero_grad(set_to_none=True)
        (-model.log_prob(x).mean()).backward()
        optimizer.step()

    for _ in range(3):
        step()
    with torch.no_grad():
        z = model.encode(x)
        error = float((model.decode(z) - x).abs().max())
        operators = _timing.operator_calls(lambda: model.log_prob(x))
    if not error < 1e-3:
        raise RuntimeError(f"{library}: expected a round trip within 1e-3, got {error:.1e}.")
    figures = {
        "parameters": sum(p.numel() for p in model.module.parameters() if p.requires_grad),
        "operators": operators,
        "peak_megabytes": _timing.peak_bytes(step) / 1e6,
        "round_trip": error,
        "note": model.note,
    }
    no_grad = torch.no_grad()
    calls = {"log_prob": no_grad(lambda: model.log_prob(x)), "inverse": no_grad(lambda: model.decode(z)), "step": step}
    return {"figures": figures, "calls": calls}


def measure(case: str, rounds: int) -> tuple[dict[str, dict], dict[str, str]]:
    """Figures of every library that has the case, and the reason for every one that could not be measured."""
    batch, shape = peers.DATA[case]
    x = torch.rand(batch, *shape, generator=torch.Generator().manual_seed(0))
    competitors, skipped = {}, {}
    for library in peers.LIBRARIES:
        try:
            found = competitor(library, case, x)
        except ImportError as error:
            skipped[library] = f"not installed ({error}); see README.md"
        except Exception as error:  # another library's failure must not hide the rest
            skipped[library] = f"{type(error).__name__}: {error}"
        else:
            competitors |= {library: found} if found else {}
    results = {library: entry["figures"] for library, entry in competitors.items()}
    for quantity in QUANTITIES:
        seconds = _timing.interleaved({name: entry["calls"][quantity] for name, entry in competitors.items()}, rounds)
        for library, times in seconds.items():
            results[library][f"{quantity}_milliseconds"] = 1e3 * statistics.median(times)
            results[library][f"{quantity}_ratio"] = _timing.median_ratio(times, seconds[peers.FLOOR])
            if peers.OURS in seconds:
                results[library][f"{quantity}_ours_ratio"] = _timing.median_ratio(seconds[peers.OURS], times)
    return results, skipped


def verdicts(results: dict[str, dict]) -> list[dict]:
    """For each quantity: ours beside the floor and beside the fastest other library."""
    others = [library for library in results if library not in (peers.FLOOR, peers.OURS)]
    found = []
    for quantity, words in QUANTITIES.items():
        floor = results[peers.OURS][f"{quantity}_ratio"]
        best = min(others, key=lambda library: results[library][f"{quantity}_ratio"], default=None)
        peer = results[best][f"{quantity}_ours_ratio"] if best else 0.0
        passed = floor <= FLOOR_LIMIT and peer <= 1
        found.append({"quantity": words, "floor": floor, "fastest_peer": best, "peer": peer, "passed": passed})
    return found


def page(results: dict[str, dict], skipped: dict[str, str], verdict: list[dict]) -> str:
    """Table, notes and verdicts."""
    times = [column for words in QUANTITIES.values() for column in (f"{words}, ms", "x floor")]
    header = ["library", "parameters", "aten calls", *times, "peak of a step, MB"]
    rows = []
    for library, entry in results.items():
        times = [t for q in QUANTITIES for t in (f"{entry[f'{q}_milliseconds']:.2f}", f"{entry[f'{q}_ratio']:.2f}")]
        rows.append([library, entry["parameters"], entry["operators"], *times, f"{entry['peak_megabytes']:.1f}"])
    lines = [f"- {library}: {entry['note']}." for library, entry in results.items() if entry["note"]]
    lines += [f"- {library} was left out: {reason}" for library, reason in skipped.items()]
    decided = [
        f"- {v['quantity']}: {v['floor']:.2f} x floor, {v['peer']:.2f} x the fastest other library "
        f"({v['fastest_peer'] or 'none'}): {'passed' if v['passed'] else 'MISSED'}"
        for v in verdict
    ]
    return "\n".join([_record.table(header, rows), "", *lines, "", *decided])


def main() -> int:
    parser = _record.parser(__doc__)
    parser.add_argument("cases", nargs="*", metavar="case", help=" ".join(peers.DATA))
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    unknown = set(options.cases) - set(peers.DATA)
    if unknown:
        parser.error(f"expected cases among {', '.join(peers.DATA)}, got {', '.join(sorted(unknown))}")
    torch.set_num_threads(options.threads)
    warnings.simplefilter("ignore")
    passed = True
    for case in options.cases or peers.DATA:
        results, skipped = measure(case, options.rounds)
        verdict = verdicts(results) if peers.OURS in results else []
        passed &= bool(verdict) and all(entry["passed"] for entry in verdict)
        batch, shape = peers.DATA[case]
        title = TITLE.format(case=case, batch=batch, shape=shape, rounds=options.rounds)
        where = _record.environment(*peers.LIBRARIES[1:])
        data = {"environment": where, "case": case, "rounds": options.rounds, "libraries": results}
        data |= {"skipped": skipped, "verdicts": verdict, "limits": {"floor": FLOOR_LIMIT, "fastest_peer": 1.0}}
        _record.write(options.out, f"flows-{case}", title, page(results, skipped, verdict), data)
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
