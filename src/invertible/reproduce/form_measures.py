"""What is measured of the residual and the coupling form: inverses over Lipschitz constants, and trained networks."""

from __future__ import annotations

import copy
import math
import statistics
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from invertible.blocks import ReversibleResidual
from invertible.blocks.residual import ResidualBlock
from invertible.blocks.swap import SwapResidual
from invertible.chain import set_memory
from invertible.classifier import Classifier
from invertible.models.iresnet import iresnet
from invertible.models.irevnet import irevnet
from invertible.reproduce.chain_step import seconds
from invertible.reproduce.classifier_training import accuracy, cross_entropy, labelled_images, train_classifier
from invertible.reproduce.experiment import Measurement, Progress
from invertible.shapes import finite_rows
from invertible.solvers.fixed_point import SolverOptions, solve_residual
from invertible.stability import relative_error, round_trip

RESIDUAL, COUPLING = "residual", "coupling"
BUILDERS = {RESIDUAL: iresnet, COUPLING: irevnet}
# Evaluations after which an inverse is given up.
MOST = 500
# The plain iteration of the i-ResNet's paper, and the library's solver.
SOLVERS = {"picard": SolverOptions(method="picard", fallback=False, on_failure="return", max_evaluations=MOST),
           "library": SolverOptions(on_failure="return", max_evaluations=MOST)}  # fmt: skip
REPEATS, TIMED = 5, 64


class OrthogonalTanh(nn.Module):
    """F(x) = c A tanh(B x) with orthogonal A and B, whose Lipschitz constant is c, which x = 0 attains.

    Args:
        features: of x.
        constant: c.
        worst: A = -B^T, so that x + F(x) is x - c tanh(x) in other coordinates, and has no inverse for c > 1.
    """

    inner: Tensor
    outer: Tensor

    def __init__(self, features: int, constant: float, *, worst: bool) -> None:
        super().__init__()
        self.constant = constant
        inner = _orthogonal(features)
        self.register_buffer("inner", inner)
        self.register_buffer("outer", -inner.T if worst else _orthogonal(features))

    def forward(self, x: Tensor) -> Tensor:
        """F(x), (B, features)."""
        return self.constant * torch.tanh(x @ self.inner.T) @ self.outer.T


def inverses_of(config: Mapping[str, Any], device: str, progress: Progress) -> Measurement:
    """Errors and evaluations of the inverse of both forms, for F of every constant, random and the worst."""
    size = config["features"]
    x = torch.randn(config["batch"], size).to(device)
    rows = []
    for number, constant in enumerate(config["constants"]):
        for worst in (False, True):
            f = OrthogonalTanh(size, constant, worst=worst).to(device)
            pair = [OrthogonalTanh(size // 2, constant, worst=worst) for _ in range(2)]
            found = {f"{RESIDUAL}, {name}": _solved(f, x, options) for name, options in SOLVERS.items()}
            found[COUPLING] = _coupled(ReversibleResidual(*pair).to(device), x)
            rows += [{"form": form, "constant": constant, "worst": worst, **each} for form, each in found.items()]
        progress((number + 1) / len(config["constants"]))
    return Measurement({"rows": rows})


def network_of(config: Mapping[str, Any], device: str, progress: Progress) -> Measurement:
    """Train a network of one form; its accuracy, round trip, evaluations and times."""
    data = labelled_images(config["data"], config["seed"])
    model = BUILDERS[config["form"]](shape=data.shape, grey_levels=data.levels, **config["model"]).to(device)
    set_memory(model, "store")
    train_classifier(model, data, config, device, lambda part: progress(0.95 * part))
    x, y = data.test.x[:TIMED].to(device), data.test.y[:TIMED].to(device)  # pyright: ignore[reportOptionalSubscript]
    return Measurement({
        "parameters": sum(p.numel() for p in model.parameters()),
        "accuracy": accuracy(model, data.test),
        "tested": len(data.test),
        "error": _inverse_error(model, data.test.x.to(device)),
        **costs(model, x, y, device),
    })  # fmt: skip


def costs(model: Classifier, x: Tensor, y: Tensor, device: str) -> dict[str, Any]:
    """Evaluations of each inner network a sample, and seconds, of both directions and of a memory-saving step."""
    with torch.no_grad():
        features = model.features(model.scaled(x))
    saving = copy.deepcopy(model).train()
    set_memory(saving, "reversible")
    stored = copy.deepcopy(model).train()

    def step(one: Classifier) -> None:
        cross_entropy(one, (x, y)).backward()

    calls = {
        "forward": (model, lambda: _without_grad(model.features, model.scaled(x))),
        "inverse": (model, lambda: _without_grad(model.invert, features)),
        "stored step": (stored, lambda: step(stored)),
        "memory-saving step": (saving, lambda: step(saving)),
    }
    evaluations, times = {}, {}
    for name, (one, call) in calls.items():
        # The guard proves every step in a first pass.
        call()
        evaluations[name] = _evaluations(one, call, len(x))
        times[name] = statistics.median(seconds(call, device) for _ in range(REPEATS))
    return {"evaluations": evaluations, "seconds": times}


def _orthogonal(size: int) -> Tensor:
    q, r = torch.linalg.qr(torch.randn(size, size, dtype=torch.float64))
    # With these signs, the factor is uniform on the orthogonal group.
    return (q * r.diagonal().sign()).float()


def _solved(f: nn.Module, x: Tensor, options: SolverOptions) -> dict[str, float]:
    with torch.no_grad():
        found = solve_residual(lambda z, _: f(z), x + f(x), options=options)
    errors = relative_error(x, found.x).nan_to_num(nan=math.inf, posinf=math.inf)
    return {
        "error": float(errors.max()),
        "lost": int((~finite_rows(found.x)).sum()),
        "evaluations": float(found.evaluations.double().mean()),
    }


def _coupled(block: ReversibleResidual, x: Tensor) -> dict[str, float]:
    errors = round_trip(block, x).data
    y = block(x)[0]
    evaluations = _evaluations(block, lambda: block.inverse(y), len(x))
    return {"error": errors.worst, "lost": errors.non_finite, "evaluations": evaluations}


def _evaluations(model: nn.Module, call: Any, samples: int) -> float:  # noqa: ANN401
    """How often each inner network is evaluated, a sample."""
    count = 0

    def counted(_: nn.Module, given: tuple[Tensor, ...], __: Tensor) -> None:
        nonlocal count
        count += len(given[0])

    inner = [net for module in model.modules() for net in _inner(module)]
    hooks = [net.register_forward_hook(counted) for net in inner]
    call()
    for hook in hooks:
        hook.remove()
    return count / (samples * len(inner))


def _inner(module: nn.Module) -> list[nn.Module]:
    match module:
        case ResidualBlock():
            return [module.net]
        case SwapResidual():
            return [module.f]
        case ReversibleResidual():
            return [module.f, module.g]
    return []


@torch.no_grad()
def _inverse_error(model: Classifier, x: Tensor) -> float:
    given = model.scaled(x)
    return float(relative_error(given, model.invert(model.features(given))).max())


@torch.no_grad()
def _without_grad(call: Any, x: Tensor) -> Tensor:  # noqa: ANN401
    return call(x)
