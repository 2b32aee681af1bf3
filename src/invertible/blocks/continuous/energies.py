"""Energies of continuous flows, the regularisers of RNODE, collected from all blocks of a model."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from invertible.errors import ConfigError

# Weights of both energies a dimension in the objective: Finlay et al. (2020), section 5.
RNODE_WEIGHT = 0.01


class Energies(NamedTuple):
    """How far and how unevenly a flow moves its samples.

    Attributes:
        kinetic: integral of |v(t, x(t))|^2 over time, divided by the number of dimensions, (B,).
        jacobian: integral of |dv/dx|_F^2, or its estimate |e^T dv/dx|^2, divided likewise, (B,).
    """

    kinetic: Tensor
    jacobian: Tensor


class KeepsEnergies(nn.Module):
    """A block that remembers the energies of its last forward pass in training mode."""

    kept: Energies | None = None
    keeps: bool = False

    def __getstate__(self) -> dict[str, object]:
        """Without what was remembered: it holds a graph, which cannot be copied."""
        state = dict(self.__dict__)
        state.pop("kept", None)
        return state


def energies(model: nn.Module) -> Energies:
    """The sum of the energies of all continuous blocks of a model in its last forward pass, differentiable; then none.

    Finlay et al. (2020, equation 7) add lambda (kinetic + jacobian) to the loss, with which the paths become straight
    and few steps solve them. Reading clears, so that a pass is counted once and its graph is freed. All memory
    strategies keep them differentiable.

    Args:
        model: any module with blocks `ContinuousBlock(..., energies=True)` that has run forward in training mode.

    Raises:
        ConfigError: if there is no such block, one has not run in training mode since the last reading, or grad is on
            but was off in the pass.

    Example:
        >>> loss = -flow.log_prob(x).mean()
        >>> loss = loss + 0.01 * sum(each.mean() for each in energies(flow))
    """
    blocks = [block for block in model.modules() if isinstance(block, KeepsEnergies) and block.keeps]
    if not blocks:
        raise ConfigError(
            "energies: expected a model with blocks ContinuousBlock(..., energies=True), found none. Build it so."
        )
    found = [block.kept for block in blocks]
    for block in blocks:
        block.kept = None
    present = [each for each in found if each is not None]
    if len(present) < len(found):
        raise ConfigError(
            f"energies: expected every continuous block to have run forward in training mode since the last reading, "
            f"got {len(found) - len(present)} of {len(found)} without energies. Call it once after each forward pass."
        )
    stored = all(each.kinetic.requires_grad for each in present)
    if torch.is_grad_enabled() and not stored and any(parameter.requires_grad for parameter in model.parameters()):
        raise ConfigError(
            "energies: expected the graph of the last pass, got values without one: the pass ran without grad. Run it "
            "with grad, or read them under torch.no_grad()."
        )
    kinetic, jacobian = zip(*present, strict=True)
    return Energies(torch.stack(kinetic).sum(0), torch.stack(jacobian).sum(0))


def keep_energies(model: nn.Module) -> None:
    """Have all continuous blocks of a model keep the energies of training passes, as `energies=True` does.

    Raises:
        ConfigError: if the model has none.
    """
    blocks = [block for block in model.modules() if isinstance(block, KeepsEnergies)]
    if not blocks:
        raise ConfigError(
            f"keep_energies: expected a model with continuous blocks, got {type(model).__name__} without. Energies are "
            "those of ContinuousBlock, as models.ffjord has it."
        )
    for block in blocks:
        block.keeps = True
