"""Which objective finds the worse points? Attacks on the inverse of a small Glow of digits.

python benchmarks/attack.py [--steps 500] [--images 16]

The flow has the scale sigmoid(r + 2), whose reciprocal is unbounded, and is trained for `--steps` steps. Test images
are attacked in boxes of half a grey level (the paper's radius), 2 and 4 grey levels either way: 100 sign steps of
radius/31 from one random start, climbing the reconstruction error or the amplification of the inverse. Exit status 1
if an attack finds nothing worse than the data themselves.
"""

import math
import sys
import time

import _record
import torch
from torch import Tensor

import invertible as inv
from invertible.stability import attack

BINS, OBJECTIVES, ASCENT = (0.5, 2.0, 4.0), ("error", "amplification"), 100


def trained(digits: inv.data.DataSet, steps: int) -> inv.Flow:
    """An affine Glow of 2 levels of 8 steps."""
    torch.manual_seed(0)
    unbounded = {"conditioner_bound": math.inf, "grey_levels": digits.levels}
    flow = inv.models.glow(digits.shape, levels=2, depth=8, hidden=32, scale="sigmoid", **unbounded)
    optimizer = torch.optim.Adam(flow.parameters(), 4e-3)
    for _ in range(steps):
        x = digits.train.x[torch.randint(len(digits.train.x), (64,))]
        loss = flow.bits_per_dim(x).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(flow.parameters(), 50.0)
        optimizer.step()
    return flow.eval()


def measure(flow: inv.Flow, x: Tensor, radius: float, objective: str) -> dict:
    """One attack."""
    start = time.perf_counter()
    found = attack(flow, x, radius, ASCENT, radius / 31, objective=objective, restarts=1)
    return {
        "at_the_data": found.start_error.median().item(),
        "median": found.error.median().item(),
        "worst": found.worst,
        "lost": found.non_finite,
        "random_steps": int(found.random_steps.sum()),
        "seconds": time.perf_counter() - start,
    }


def main() -> int:
    parser = _record.parser(__doc__)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--images", type=int, default=16)
    options = parser.parse_args()
    torch.set_num_threads(1)
    digits = inv.data.load("digits")
    flow = trained(digits, options.steps)
    x = (digits.test.x[: options.images].float() + 0.5) / digits.levels
    found = {
        f"{bins:g} grey levels, {objective}": measure(flow, x, bins / digits.levels, objective)
        for bins in BINS
        for objective in OBJECTIVES
    }
    rows = [
        [name, *(f"{each[key]:.1e}" for key in ("at_the_data", "median", "worst")), f"{each['lost']} of {len(x)}",
         each["random_steps"], f"{each['seconds']:.0f}"]
        for name, each in found.items()
    ]  # fmt: skip
    text = f"Relative errors of {len(x)} images, {ASCENT} steps, one random start.\n\n"
    text += _record.table(["radius, objective", "at x, median", "median", "worst", "lost", "random steps", "s"], rows)
    record = {"environment": _record.environment("invertible"), "steps": options.steps, "attacks": found}
    _record.write(options.out, "attack", "Attacks on the inverse: objectives", text, record)
    return 0 if all(each["worst"] > each["at_the_data"] for each in found.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
