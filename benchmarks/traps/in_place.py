"""Tensors that are modified in place: inside, before and after, and between the passes."""

import torch
from chains import nets
from torch import Tensor, nn

from traps.subject import Setup, Subject, Tensors, Trial


def inplace_inside(subject: Subject) -> None:
    """An in-place ReLU behind the first convolution of F and G."""
    setup = Setup(net=lambda a, b: nn.Sequential(nets.conv(a, a), nn.ReLU(inplace=True), nets.conv(a, b)))
    subject.agree(Trial.step, setup)


def inplace_on_own_input(subject: Subject) -> None:
    """F and G begin with an in-place ReLU, so that what went in is lost and no inverse exists.

    Stored activations refuse it, for halves are views of x. Where they are copies, the gradient is well defined.
    """

    def with_copies(trial: Trial) -> Tensors:
        a, b = (half.clone() for half in trial.hidden().chunk(2, 1))
        for f, g in trial.pairs:
            a = a + f(b)
            b = b + g(a)
        y = torch.cat((a, b), 1)
        trial.loss(y).backward()
        return {"output": y, **trial.gradients()}

    setup = Setup(net=lambda a, b: nn.Sequential(nn.ReLU(inplace=True), nets.conv(a, a), nn.Tanh(), nets.conv(a, b)))
    subject.agree(Trial.step, setup, truth=with_copies)


def inplace_on_output(subject: Subject) -> None:
    """The next layer works in place on the chain's output."""

    def scenario(trial: Trial) -> Tensors:
        y = trial.model(trial.hidden())
        trial.loss(y.mul_(3).sin()).backward()
        return {"output": y, **trial.gradients()}

    subject.agree(scenario)


def inplace_on_detached_output(subject: Subject) -> None:
    """The caller writes into the output behind autograd's back, as normalising a picture for a log does."""

    def scenario(trial: Trial) -> Tensors:
        y = trial.model(trial.hidden())
        loss = trial.loss(y)
        y.detach().clamp_(-0.1, 0.1)
        loss.backward()
        return trial.gradients()

    subject.agree(scenario)


def _step_with_change(trial: Trial, change) -> Tensors:
    hidden = trial.hidden()
    loss = trial.loss(trial.model(hidden))
    with torch.no_grad():
        change(trial, hidden)
    loss.backward()
    return trial.gradients()


def _nothing(trial: Trial, hidden: Tensor) -> None:
    """Leave all as it is."""


def inplace_on_input_after(subject: Subject) -> None:
    """The chain's input is modified in place between the passes; stored activations refuse."""

    def change(trial: Trial, hidden: Tensor) -> None:
        hidden.mul_(3)

    subject.agree(lambda t: _step_with_change(t, change), truth=lambda t: _step_with_change(t, _nothing))


def params_changed_before_bwd(subject: Subject) -> None:
    """An optimizer's step between the passes; stored activations refuse."""

    def change(trial: Trial, hidden: Tensor) -> None:
        for parameter in trial.parameters():
            parameter.mul_(1.1)

    subject.agree(lambda t: _step_with_change(t, change), truth=lambda t: _step_with_change(t, _nothing))


ROWS = {
    f.__name__: f
    for f in (
        inplace_inside,
        inplace_on_own_input,
        inplace_on_output,
        inplace_on_detached_output,
        inplace_on_input_after,
        params_changed_before_bwd,
    )
}
