"""The ways in which autograd can be called."""

import time

import torch
from torch import Tensor

from traps.subject import Setup, Subject, Tensors, Trial, named


def _gradients_of(trial: Trial, loss: Tensor, inputs: list[Tensor]) -> Tensors:
    return named("gradient", torch.autograd.grad(loss, inputs))


def two_backwards(subject: Subject) -> None:
    """Two backward passes through one graph, with retain_graph=True in the first."""

    def scenario(trial: Trial) -> Tensors:
        loss = trial.loss(trial.model(trial.hidden()))
        loss.backward(retain_graph=True)
        loss.backward()
        return trial.gradients()

    subject.agree(scenario)


def autograd_grad_params(subject: Subject) -> None:
    """torch.autograd.grad for the parameters; none of it lands in .grad."""

    def scenario(trial: Trial) -> Tensors:
        found = _gradients_of(trial, trial.loss(trial.model(trial.hidden())), trial.parameters())
        return found | trial.gradients()

    subject.agree(scenario)


def autograd_grad_input_only(subject: Subject) -> None:
    """torch.autograd.grad for the input; the parameters' .grad stays as it was."""

    def scenario(trial: Trial) -> Tensors:
        found = _gradients_of(trial, trial.loss(trial.model(trial.hidden())), [trial.x])
        return found | trial.gradients()

    subject.agree(scenario)


def backward_inputs(subject: Subject) -> None:
    """backward(inputs=...) for some parameters; no others receive a gradient."""

    def scenario(trial: Trial) -> Tensors:
        loss = trial.loss(trial.model(trial.hidden()))
        loss.backward(inputs=trial.parameters()[:3])
        return trial.gradients()

    subject.agree(scenario)


def post_accumulate_hooks(subject: Subject) -> None:
    """An optimizer within the backward pass: as soon as a gradient is there, it is used and freed."""

    def update(parameter: Tensor) -> None:
        with torch.no_grad():
            parameter.sub_(parameter.grad, alpha=0.01)
        parameter.grad = None

    def scenario(trial: Trial) -> Tensors:
        for parameter in trial.parameters():
            parameter.register_post_accumulate_grad_hook(update)
        return trial.step() | named("parameter", trial.parameters())

    subject.agree(scenario)


def _penalty(trial: Trial, y: Tensor) -> Tensor:
    (slope,) = torch.autograd.grad(trial.loss(y.sin()), trial.x, create_graph=True)
    return slope.square().sum()


def double_backward(subject: Subject) -> None:
    """The gradient of a gradient penalty."""

    def scenario(trial: Trial) -> Tensors:
        _penalty(trial, trial.model(trial.hidden())).backward()
        return trial.gradients()

    subject.agree(scenario)


def double_backward_plus_loss(subject: Subject) -> None:
    """The gradient of a loss and a gradient penalty."""

    def scenario(trial: Trial) -> Tensors:
        y = trial.model(trial.hidden())
        (trial.loss(y) + _penalty(trial, y)).backward()
        return trial.gradients()

    subject.agree(scenario)


def grads_arrive_progressively(subject: Subject) -> str:
    """When, within the backward pass, do the parameters' gradients arrive, which communication could overlap?"""
    trial = subject.trial(Setup(blocks=16))
    trial.step()
    arrivals: list[float] = []
    for parameter in trial.parameters():
        parameter.register_post_accumulate_grad_hook(lambda _: arrivals.append(time.perf_counter()))
    loss = trial.loss(trial.model(trial.hidden()))
    start = time.perf_counter()
    loss.backward()
    whole = time.perf_counter() - start
    first, median = ((arrivals[index] - start) / whole for index in (0, len(arrivals) // 2))
    return f"first after {first:.0%}, half of them after {median:.0%} of the backward pass"


ROWS = {
    f.__name__: f
    for f in (
        two_backwards,
        autograd_grad_params,
        autograd_grad_input_only,
        backward_inputs,
        post_accumulate_hooks,
        double_backward,
        double_backward_plus_loss,
        grads_arrive_progressively,
    )
}
