"""How long an audit of a Glow takes, section by section: 1,000 images of 3 x 32 x 32 pixels, effort "quick".

Exit status 1 if a model takes longer than the limit. The weights are random and small, which costs what trained ones
cost: the number of evaluations depends on neither. Seconds are those of the clock; run it on an idle machine.

python benchmarks/audit_time.py [--models 8x64 16x128] [--effort quick] [--images 1000] [--limit 60]
"""

import sys
import time

import _record
import torch

from invertible import models
from invertible.auditing import audit
from invertible.stability.audit_options import ROUND_TRIPS, SECTIONS


def glow(depth: int, hidden: int):
    torch.manual_seed(0)
    flow = models.glow((3, 32, 32), levels=3, depth=depth, hidden=hidden)
    with torch.no_grad():
        flow.bijection(torch.rand(64, 3, 32, 32))
        for parameter in flow.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    return flow.eval()


def measured(name: str, images: int, effort: str) -> dict:
    depth, hidden = map(int, name.split("x"))
    flow = glow(depth, hidden)
    x = torch.randint(256, (images, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    began, processor = time.perf_counter(), time.process_time()
    report = audit(flow, x, effort=effort)
    return {
        "depth": depth,
        "hidden": hidden,
        "parameters": report.record.model["parameters"],
        "passed": report.passed,
        "seconds": time.perf_counter() - began,
        "processor_seconds": time.process_time() - processor,
        "sections": {each.name: each.seconds for each in report.record.sections},
        "statuses": {each.name: each.status for each in report.record.sections},
    }


def main() -> int:
    parser = _record.parser(__doc__)
    parser.add_argument("--models", nargs="+", default=["8x64", "16x128"], help="depth x hidden, as in 8x64")
    parser.add_argument("--effort", default="quick")
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--limit", type=float, default=60.0, help="seconds")
    options = parser.parse_args()
    names = [ROUND_TRIPS, *SECTIONS]
    rows, found = [], {}
    for name in options.models:
        one = found[name] = measured(name, options.images, options.effort)
        figures = [f"{one['sections'][each]:.1f}" for each in names]
        rows.append(
            [name, f"{one['parameters']:,}", *figures, f"{one['seconds']:.1f}", f"{one['processor_seconds']:.1f}"]
        )
    header = ["depth x hidden", "parameters", *names, "in all", "processor"]
    text = f"Seconds, effort `{options.effort}`, {options.images} images.\n\n" + _record.table(header, rows)
    record = {"environment": _record.environment("invertible"), "limit": options.limit, "models": found}
    _record.write(options.out, "audit-time", "Seconds an audit takes", text, record)
    return int(any(one["seconds"] > options.limit for one in found.values()))


if __name__ == "__main__":
    sys.exit(main())
