"""What keeps the inverse of a deep flow? Remedies beside each other, 32 couplings on digits.

python benchmarks/deep_stability.py [--layers 32] [--steps 1000] [--only NAME ...]

Every variant is a chain of activation norm and coupling on 64 pixels, halves in turn unless it says otherwise, trained
and judged at the last step as in `stability.py`. What is measured: the largest relative error of both round trips,
samples lost, the fit to held-out digits (best over training), and seconds of training beside the plain chain's.
"""

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass

import _digits_flows
import _record
import torch
from _digits_flows import SETS, TRAIN
from torch import Tensor

import invertible as inv
from invertible.blocks.scale import TanhExp
from invertible.distributions import StandardNormal
from invertible.stability import FiniteDifferencePenalty

PLAIN = "scale in (1/2, 2)"


@dataclass(frozen=True)
class Variant:
    """What is done for the inverse."""

    scale: str | Callable[[int], TanhExp] = "tanh-exp"
    bound: float = math.inf
    mixing: str = "halves"
    coupling: str = "affine"
    penalty: str = ""


def budget(total: float) -> Callable[[int], TanhExp]:
    """Scales whose product over the depth stays within (1/total, total): each value is scaled by half the couplings."""
    return lambda layers: TanhExp(total ** (2 / layers))


VARIANTS = {
    PLAIN: Variant(),
    "scale in (1/2, 1)": Variant("half-sigmoid"),
    "product of scales within 16": Variant(budget(16.0)),
    "orthogonal mixing": Variant(mixing="orthogonal"),
    "finite-difference penalty": Variant(penalty="differences"),
    "reconstruction loss on noise": Variant(penalty="reconstruction"),
    "additive couplings": Variant(coupling="additive"),
    "conditioner_bound=5": Variant(bound=5.0),
    "conditioner_bound=3": Variant(bound=3.0),
    "conditioner_bound=3, scale in (1/2, 1)": Variant("half-sigmoid", 3.0),
    "conditioner_bound=3, random shuffles (the default)": Variant(bound=3.0, mixing="random"),
}


def build(variant: Variant, layers: int) -> inv.Flow:
    """The chain."""
    torch.manual_seed(0)
    blocks: list[inv.Bijection] = []
    for index in range(layers):
        blocks.append(inv.ActNorm(64))
        if variant.mixing == "orthogonal":
            blocks.append(inv.InvertibleLinear(64, "orthogonal"))
        elif variant.mixing == "random" and index:
            blocks.append(inv.Permutation(64, seed=index))
        flip = index % 2 == 1 and variant.mixing != "random"
        options = {"hidden": (128, 128), "flip": flip, "conditioner_bound": variant.bound}
        if variant.coupling == "additive":
            blocks.append(inv.AdditiveCoupling(64, **options))
        else:
            scale = variant.scale if isinstance(variant.scale, str) else variant.scale(layers)
            blocks.append(inv.AffineCoupling(64, scale=scale, **options))
    if variant.coupling == "additive":
        blocks.append(inv.DiagonalScaling(64))
    return inv.Flow(inv.Chain(*blocks), StandardNormal((64,)))


def term(variant: Variant, flow: inv.Flow) -> Callable[[Tensor, int], Tensor] | None:
    """The penalty of a batch, if there is one."""
    if variant.penalty == "differences":
        penalty = FiniteDifferencePenalty(1e-3, every=10, generator=0)
        return lambda x, step: penalty(flow.bijection, x, step=step)
    if variant.penalty == "reconstruction":
        generator = torch.Generator().manual_seed(1)

        def reconstruction(x: Tensor, step: int) -> Tensor:
            if step % 10:
                return x.new_zeros(())
            noise = 3 * torch.randn(x.shape, generator=generator)
            back, _ = flow.bijection.inverse(flow.bijection(noise)[0])
            return 1e3 * (back - noise).square().mean()

        return reconstruction
    return None


def main() -> int:
    parser = _record.parser(__doc__)
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--only", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    options = parser.parse_args()
    torch.set_num_threads(1)
    x, held_out = _digits_flows.digits()
    results, rows = {}, []
    for name in options.only:
        flow = build(VARIANTS[name], options.layers)
        fit = _digits_flows.train(flow, x[:TRAIN], held_out, options.steps, term(VARIANTS[name], flow))
        del fit["weights"]
        found = _digits_flows.judge(flow.eval(), held_out)
        results[name] = {"fit": fit, "sets": found}
        against = fit["seconds"] / results[PLAIN]["fit"]["seconds"] if PLAIN in results else math.nan
        rows.append([name, f"{fit['best']:.1f}", f"× {against:.2f}", *_digits_flows.cells(found)])
        print(rows[-1], flush=True)
    text = (
        f"{options.layers} couplings, {options.steps} steps. Largest relative error of both round trips in float32.\n\n"
    )
    text += _record.table(["", "held-out nats", "training time", *SETS], rows)
    data = {"environment": _record.environment("invertible", "scikit-learn"), "results": results}
    data |= {"layers": options.layers, "steps": options.steps}
    _record.write(options.out, "deep-stability", "What keeps the inverse of a deep flow?", text, data)
    return 0


if __name__ == "__main__":
    sys.exit(main())
