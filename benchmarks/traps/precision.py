"""Autocast and bfloat16."""

import torch
from chains import nets
from torch import Tensor, nn

from traps.subject import Setup, Subject, Tensors, Trial, WrongError, largest_error

# What bfloat16 inside rounds differently when states differ in their last bits of float32.
BFLOAT16 = 5e-2
SINGLE = Setup(dtype=torch.float32)


def _autocast():
    return torch.autocast("cpu", torch.bfloat16)


def autocast_bf16(subject: Subject) -> None:
    """Forward pass under autocast, backward pass outside, as the manual says."""

    def scenario(trial: Trial) -> Tensors:
        with _autocast():
            y = trial.model(trial.hidden())
        trial.loss(y.float()).backward()
        return {"output": y, **trial.gradients()}

    subject.agree(scenario, SINGLE, tolerance=BFLOAT16)


def autocast_bwd_inside(subject: Subject) -> None:
    """Both passes under autocast."""

    def scenario(trial: Trial) -> Tensors:
        with _autocast():
            return trial.step()

    subject.agree(scenario, SINGLE, tolerance=BFLOAT16)


class _Spy(nn.Module):
    """Notes the dtypes that come by."""

    def __init__(self, seen: set):
        super().__init__()
        self.seen = seen

    def forward(self, x: Tensor) -> Tensor:
        self.seen.add(x.dtype)
        return x


def autocast_recompute_dtype(subject: Subject) -> None:
    """What is run again in the backward pass is run under the autocast of the forward pass."""
    seen: set[torch.dtype] = set()
    setup = Setup(net=lambda a, b: nets.smooth(a, b, _Spy(seen)), dtype=torch.float32)
    trial = subject.trial(setup)
    with _autocast():
        y = trial.model(trial.hidden())
    first = set(seen)
    seen.clear()
    trial.loss(y.float()).backward()
    if not seen <= first:
        raise WrongError(f"forward pass in {first}, run again in {seen}")


def pure_bf16(subject: Subject) -> str:
    """Weights and states in bfloat16: how far from the same in float64?"""

    def gradients(trial: Trial) -> Tensors:
        trial.step()
        grads = [p.grad.double().flatten() for p in trial.parameters()]
        return {"all": torch.cat(grads)}

    half = gradients(subject.trial(Setup(dtype=torch.bfloat16)))
    error = largest_error(half, gradients(subject.true(Setup())))[1]
    return f"gradient off by {error:.1%}"


ROWS = {f.__name__: f for f in (autocast_bf16, autocast_bwd_inside, pure_bf16, autocast_recompute_dtype)}
