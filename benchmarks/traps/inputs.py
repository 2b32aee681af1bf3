"""Which inputs, outputs and parameters take part in the backward pass, and in what layout they come."""

import torch
from chains import nets
from torch import nn

from traps.subject import CHANNELS, Setup, Subject, Tensors, Trial


def input_no_grad(subject: Subject) -> None:
    """The first layer of a network: a batch that requires no grad."""

    def scenario(trial: Trial) -> Tensors:
        y = trial.model(trial.x.detach().clone())
        trial.loss(y).backward()
        return {"output": y, **trial.gradients()}

    subject.agree(scenario)


def input_no_grad_with_head(subject: Subject) -> None:
    """The same with a head behind, whose parameters alone would let the backward pass run."""

    def scenario(trial: Trial) -> Tensors:
        torch.manual_seed(3)
        head = nn.Conv2d(CHANNELS, CHANNELS, 1).to(trial.x.dtype)
        trial.loss(head(trial.model(trial.x.detach().clone()))).backward()
        return {"gradient of head": head.weight.grad, **trial.gradients()}

    subject.agree(scenario)


def half_output_used(subject: Subject) -> None:
    """Only one half of the output enters the loss."""

    def scenario(trial: Trial) -> Tensors:
        trial.model(trial.hidden()).chunk(2, 1)[0].square().sum().backward()
        return trial.gradients()

    subject.agree(scenario)


def frozen_params(subject: Subject) -> None:
    """Some parameters require no grad: a whole network, and one layer of another."""

    def freeze(pairs: nets.Pairs) -> nets.Pairs:
        pairs[0][0].requires_grad_(False)
        pairs[1][1][0].requires_grad_(False)
        return pairs

    subject.agree(Trial.step, Setup(prepare=freeze))


def tied_weights(subject: Subject) -> None:
    """All blocks share their networks."""
    subject.agree(Trial.step, Setup(prepare=lambda pairs: pairs[:1] * len(pairs)))


def channels_last_input(subject: Subject) -> None:
    """Images with channels as the last axis in memory."""

    def scenario(trial: Trial) -> Tensors:
        y = trial.model(trial.hidden().contiguous(memory_format=torch.channels_last))
        trial.loss(y).backward()
        return {"output": y, **trial.gradients()}

    subject.agree(scenario)


ROWS = {
    f.__name__: f
    for f in (
        input_no_grad,
        input_no_grad_with_head,
        half_output_used,
        frozen_params,
        tied_weights,
        channels_last_input,
    )
}
