"""Dropout in the inner networks: the backward pass must see the masks of the forward pass."""

import itertools

import torch
from chains import nets
from torch import nn

from traps.subject import Setup, Subject, Tensors, Trial, compare


class Masks:
    """Makes networks with dropout, remembers the first mask that each drew in a phase, and can play them back.

    Competitors draw in different orders, so it is not the numbers that must agree: the gradient must be that of the
    very network that gave the output.

    Attributes:
        phase: names the forward pass that runs; `None` remembers nothing.
        replay: use remembered masks.
    """

    def __init__(self):
        self.phase: int | None = None
        self.replay = False
        self.masks: dict[tuple[int, int], torch.Tensor] = {}
        self.positions = itertools.count()

    def net(self, inputs: int, outputs: int) -> nn.Module:
        """conv3x3 - tanh - dropout - conv3x3."""
        return nets.smooth(inputs, outputs, _Dropout(self, next(self.positions)))

    def restart(self) -> None:
        """The networks made from now on play the masks back."""
        self.replay, self.positions = True, itertools.count()


class _Dropout(nn.Module):
    def __init__(self, masks: Masks, position: int):
        super().__init__()
        self.masks, self.position = masks, position

    def forward(self, x):
        key, masks = (self.position, self.masks.phase), self.masks.masks
        if self.masks.replay and key in masks:
            return x * masks[key] * 2
        mask = torch.rand_like(x) < 0.5
        if self.masks.phase is not None:
            masks.setdefault(key, mask)
        return x * mask * 2


def _dropout(subject: Subject, *, keep_rng: bool, passes: int = 1) -> None:
    masks = Masks()

    def scenario(trial: Trial) -> Tensors:
        outputs = []
        for phase in range(passes):
            masks.phase = phase
            outputs.append(trial.model(trial.hidden() + phase))
        masks.phase = None
        sum(trial.loss(y) for y in outputs).backward()
        return {"output": torch.cat(outputs).detach(), **trial.gradients()}

    setup = Setup(net=masks.net, keep_rng=keep_rng)
    found = scenario(subject.trial(setup))
    masks.restart()
    compare(found, scenario(subject.true(setup)), 1e-8)


def dropout_default(subject: Subject) -> None:
    """As it comes."""
    _dropout(subject, keep_rng=False)


def dropout_rng_option(subject: Subject) -> None:
    """With the competitor's own option switched on, where it has one."""
    _dropout(subject, keep_rng=True)


def dropout_two_forwards(subject: Subject) -> None:
    """Two forward passes before the backward pass."""
    _dropout(subject, keep_rng=True, passes=2)


def global_rng_after_step(subject: Subject) -> None:
    """The user's random numbers go on after a step as they would have."""

    def scenario(trial: Trial) -> Tensors:
        trial.step()
        return {"random state": torch.get_rng_state()}

    subject.agree(scenario, Setup(net=lambda a, b: nets.smooth(a, b, nn.Dropout(0.5))))


ROWS = {f.__name__: f for f in (dropout_default, dropout_rng_option, dropout_two_forwards, global_rng_after_step)}
