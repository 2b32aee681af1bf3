"""Do residual and continuous flows keep their inverse on every input? Round trips far from the data, and certificates.

python benchmarks/global_round_trip.py [--steps 400] [--models residual ...] [--add]

Flows of 64 features are trained alike on the digits (Adam 1e-3, batch 128), then judged by both round trips on the sets
of the audit, 64 samples each, ten-fold inputs included, and under attack: the largest relative error, and how many are
lost. Of residual blocks the certified constant is held against the largest singular value of their Jacobians, dense, in
float64, at test digits and at all inputs far from them. Exit status 1 if one of our globally invertible flows is off by
more than ten times the tolerance of 1e-5 that its solvers are asked for, loses a sample, or a singular value exceeds
its certificate.
"""

import copy
import json
import sys
from collections.abc import Callable

import _record
import normflows
import torch
import zuko
from _digits_flows import TRAIN, Judgement, cell, digits, failures, largest_finite, patches, train
from torch import Tensor, nn

import invertible as inv
from invertible.blocks.lipschitz import LipschitzConvNet
from invertible.stability import attack
from invertible.stability.lipschitz import lipschitz_bounds

TOLERANCE, FACTOR = 1e-5, 10
SAMPLES, ATTACKED, RADIUS = 64, 16, 0.1


def convolutional() -> inv.Flow:
    """Residual blocks of convolutions over two scales, on flat pixels."""
    blocks: list[inv.Bijection] = [inv.Flatten((1, 8, 8)).inverted, inv.Squeeze()]
    for channels in (4, 16):
        blocks += [inv.Squeeze()] if channels == 16 else []
        for _ in range(4):
            blocks += [inv.ActNorm(channels), inv.ResidualBlock(LipschitzConvNet(channels, (32, 32)))]
    back: list[inv.Bijection] = [inv.Squeeze().inverted, inv.Squeeze().inverted, inv.Flatten((1, 8, 8))]
    return inv.Flow(inv.Chain(*blocks, *back), inv.StandardNormal((64,)))


def continuous(solver: str | dict) -> inv.Flow:
    """A continuous flow with Hutchinson's trace in training."""
    return inv.models.ffjord(64, hidden=(128, 128), trace="hutchinson", solver=solver)


OURS: dict[str, Callable[[], inv.Flow]] = {
    "residual": lambda: inv.models.residual_flow(64, blocks=8, hidden=(128, 128)),
    "residual, dense": lambda: inv.models.residual_flow(64, blocks=8, hidden=(64, 64), net="dense"),
    "residual, convolutional": convolutional,
    "continuous, rk4": lambda: continuous({"method": "rk4", "steps": 5}),
    "continuous, reversible": lambda: continuous({"method": "reversible-midpoint", "steps": 8}),
    "continuous, adaptive": lambda: continuous({"method": "dopri5", "rtol": TOLERANCE, "atol": TOLERANCE}),
}
COUPLINGS: dict[str, Callable[[], inv.Flow]] = {
    "coupling, as RealNVP": lambda: inv.models.realnvp(
        64, layers=16, hidden=(128, 128), scale="exp", conditioner_bound=float("inf")
    ),
}


class OfNormflows(nn.Module):
    """normflows' residual flow with the names that the training loop wants."""

    def __init__(self) -> None:
        super().__init__()
        flows = []
        for _ in range(8):
            net = normflows.nets.LipschitzMLP([64, 128, 128, 64], init_zeros=True, lipschitz_const=0.97)
            flows += [normflows.flows.Residual(net), normflows.flows.ActNorm(64)]
        self.model, self.validate = normflows.NormalizingFlow(normflows.distributions.DiagGaussian(64), flows), True

    def log_prob(self, x: Tensor) -> Tensor:
        """Its training objective; its constraint is renewed before."""
        if self.training and torch.is_grad_enabled():
            normflows.utils.update_lipschitz(self.model, 5)
        return self.model.log_prob(x)


class OfZuko(nn.Module):
    """zuko's continuous flow with the names that the training loop wants."""

    def __init__(self) -> None:
        super().__init__()
        self.model, self.validate = zuko.flows.CNF(64, hidden_features=(128, 128), exact=False), True

    def log_prob(self, x: Tensor) -> Tensor:
        """Its log-density."""
        return self.model().log_prob(x)


PEERS: dict[str, Callable[[], nn.Module]] = {"normflows residual": OfNormflows, "zuko continuous": OfZuko}


def judge(flow: inv.Flow, x: Tensor) -> Judgement:
    """Both round trips on the sets of the audit, and on samples found by an attack."""
    options = {"sections": (), "samples": SAMPLES, "temperatures": (1.0, 5.0), "control": False}
    report = inv.audit(flow, x, other=patches(SAMPLES), **options)
    found = {}
    for one in report.record.sets:
        errors = [error for each in (one.data, one.latent) if each is not None for error in each.errors]
        found[one.name] = (largest_finite(errors), one.non_finite, one.samples)
    result = attack(flow, x[:ATTACKED], RADIUS, steps=20, step_size=RADIUS / 5, generator=0)
    found["attack"] = (largest_finite(result.error.tolist()), result.non_finite, len(result.error))
    return found


def certificates(flow: inv.Flow, x: Tensor) -> list[list]:
    """Of every residual block: certified constant, and the largest singular value of its Jacobian over the samples."""
    double = copy.deepcopy(flow).double().eval()
    state, rows = x.double(), []
    with torch.no_grad():
        for index, block in enumerate(double.bijection):
            if isinstance(block, inv.ResidualBlock):
                jacobian = torch.func.vmap(torch.func.jacrev(lambda row, net=block.net: net(row[None])[0].flatten()))
                values = torch.linalg.matrix_norm(jacobian(state).flatten(2), 2)
                rows.append([index, block.lipschitz, float(block.net.lipschitz_bound()), float(values.max())])
            state = block(state)[0]
    return rows


def far_and_near(held_out: Tensor) -> Tensor:
    """Test digits, the same ten-fold, noise, photographs."""
    generator = torch.Generator().manual_seed(2)
    x = held_out[:64]
    noise = [torch.rand(x.shape, generator=generator), torch.randn(x.shape, generator=generator)]
    return torch.cat([x, 10 * x, 1 - x, *noise, patches(64)])


def main() -> int:
    parser = _record.parser(__doc__)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--models", nargs="+", default=[*OURS, *COUPLINGS, *PEERS])
    parser.add_argument("--add", action="store_true", help="merge into the newest result on this machine")
    options = parser.parse_args()
    torch.set_num_threads(1)
    data, held_out = digits()
    results, problems = earlier(options.out) if options.add else {}, []
    for name in options.models:
        torch.manual_seed(0)
        flow = (OURS | COUPLINGS | PEERS)[name]()
        found = train(flow, data[:TRAIN], held_out, options.steps)
        flow.eval()
        judged = judge(inv.adapt(flow.model) if name in PEERS else flow, held_out)
        entry = {"nats": found["last"], "seconds": found["seconds"], "sets": judged}
        if name in OURS:
            problems += [f"{name}: {each}" for each in failures(judged, FACTOR * TOLERANCE)]
            with torch.no_grad():
                entry["bounds"] = (lipschitz_bounds(flow).forward, lipschitz_bounds(flow).inverse)
            entry["certificates"] = certificates(flow, far_and_near(held_out))
            problems += [f"{name}, block {row[0]}: {row}" for row in entry["certificates"] if not row[3] <= row[2]]
        results[name] = entry
        print(name, entry, flush=True)
        record = {"environment": _record.environment("invertible", "normflows", "zuko"), "results": results}
        _record.write(
            options.out, "global-round-trip", "Round trips of globally invertible flows", text(results), record
        )
    print("\n".join(problems) or "All within the limits.")
    return 1 if problems else 0


def text(results: dict[str, dict]) -> str:
    """Errors by set, then certificates."""
    sets = {name: {key: tuple(value) for key, value in entry["sets"].items()} for name, entry in results.items()}
    columns = list(dict.fromkeys(key for found in sets.values() for key in found))
    rows = [
        [name, f"{results[name]['nats']:.1f}", *(cell(*found[key]) if key in found else "" for key in columns)]
        for name, found in sets.items()
    ]
    first = _record.table(["", "held-out nats", *columns], rows)
    rows = []
    for name, entry in results.items():
        if found := entry.get("certificates"):
            certified, measured = (max(row[column] for row in found) for column in (2, 3))
            ratio = max(row[3] / row[2] for row in found)
            rows.append([name, len(found), f"{certified:.4f}", f"{measured:.4f}", f"{ratio:.3f}"])
    header = ["", "blocks", "largest certified constant", "largest singular value", "largest ratio of the two"]
    return f"{first}\n\nResidual blocks:\n\n{_record.table(header, rows)}"


def earlier(out: object) -> dict:
    """Results of the newest file on this machine."""
    files = sorted(out.glob(f"global-round-trip_{_record.machine()}_*.json"))  # type: ignore[attr-defined]
    return json.loads(files[-1].read_text())["results"] if files else {}


if __name__ == "__main__":
    sys.exit(main())
