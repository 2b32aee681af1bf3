"""Gradients with respect to tensors some of which are computed from others."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def direct(parameters: Sequence[Tensor], totals: Sequence[Tensor | None]) -> list[Tensor | None]:
    """The part of each gradient that does not pass through another of the parameters.

    `torch.autograd.grad` with respect to a and b = f(a) gives for a what reaches it through b too. A function that
    takes both hands out the direct parts, since autograd itself carries b's part on to a, which would count it twice.

    Args:
        parameters: leaves, and tensors computed from others.
        totals: the gradients that autograd gives, `None` for 0.
    """
    found = list(totals)
    computed = [(x.grad_fn, index) for index, x in enumerate(parameters) if x.grad_fn is not None]
    # The last computed first: what passes through it is taken from those that it was computed from.
    for _, index in sorted(computed, key=lambda each: each[0]._sequence_nr(), reverse=True):
        above = found[index]
        others = [other for other in range(len(parameters)) if other != index]
        if above is None or not others:
            continue
        inputs = [parameters[other] for other in others]
        passed = torch.autograd.grad(
            parameters[index], inputs, above.to(parameters[index].dtype), retain_graph=True, allow_unused=True
        )
        for other, part in zip(others, passed, strict=True):
            total = found[other]
            if part is not None and total is not None:
                found[other] = total - part
    return found
