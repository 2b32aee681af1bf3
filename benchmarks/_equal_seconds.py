"""Density models by name, ours and others', under one interface: a loss, and an exact log-density to judge them by."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import normflows
import torch
import zuko
from torch import Tensor, nn

import invertible as inv
from invertible.solvers.ode.fixed_step import FixedStepSolver

ACCURATE = FixedStepSolver("rk4", 40)


@dataclass
class Competitor:
    """A model in training.

    Attributes:
        module: what holds the parameters.
        loss: mean negative log-density of a batch, as the library trains it.
        log_prob: exact log-density, (B, D) to (B,), in eval mode; estimates have no place in a comparison.
        after_step: what the library wants done after each step of the optimizer.
        lr: learning rate of Adam, the one of the library's own example.
    """

    module: nn.Module
    loss: Callable[[Tensor], Tensor]
    log_prob: Callable[[Tensor], Tensor]
    after_step: Callable[[], object] = lambda: None
    lr: float = 1e-3


def ours(flow: inv.Flow, x: Tensor, lr: float = 1e-3) -> Competitor:
    """A flow of this library; ActNorms see x first."""
    flow.validate = False
    with torch.no_grad():
        flow.train().log_prob(x)
    return Competitor(flow, lambda x: -flow.log_prob(x).mean(), accurately(flow), lr=lr)


def accurately(flow: inv.Flow) -> Callable[[Tensor], Tensor]:
    """The log-density of a continuous flow's field, whatever steps it was trained with: these may be exploited."""

    def log_prob(x: Tensor) -> Tensor:
        blocks = [block for block in flow.modules() if isinstance(block, inv.ContinuousBlock)]
        solvers = [block.solver for block in blocks]
        for block in blocks:
            block.solver = ACCURATE
        try:
            return flow.log_prob(x)
        finally:
            for block, solver in zip(blocks, solvers, strict=True):
                block.solver = solver

    return log_prob


def normflows_residual(features: int, x: Tensor, *, blocks: int = 16, hidden: int = 128, layers: int = 3) -> Competitor:
    """The residual flow of normflows' example notebook: its estimator, its Lipschitz updates, its learning rate.

    Its own log-density is an estimate beyond two dimensions and its training loss not a log-density at all, so that the
    model is judged by the dense Jacobians of its blocks.
    """
    flows = []
    for _ in range(blocks):
        net = normflows.nets.LipschitzMLP(
            [features, *[hidden] * (layers - 1), features], init_zeros=True, lipschitz_const=0.9
        )
        flows += [normflows.flows.Residual(net, reduce_memory=True), normflows.flows.ActNorm(features)]
    model = normflows.NormalizingFlow(normflows.distributions.DiagGaussian(features, trainable=False), flows)
    model.train().log_prob(x)

    def log_prob(x: Tensor) -> Tensor:
        total = torch.zeros(len(x))
        for flow in reversed(flows):
            if not isinstance(flow, normflows.flows.Residual):
                x, log_det = flow.inverse(x)
                total = total + log_det
                continue
            net = flow.iresblock.nnet
            g, jacobians = _with_jacobians(net, x)
            total = total + torch.linalg.slogdet(torch.eye(x.shape[1]) + jacobians)[1]
            x = x + g
        return total + model.q0.log_prob(x)

    return Competitor(model, model.forward_kld, log_prob, lambda: normflows.utils.update_lipschitz(model, 5), lr=3e-4)


def _with_jacobians(net: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """g(x), and its Jacobians (B, D, D)."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        g = net(x)
        rows = [torch.autograd.grad(column.sum(), x, retain_graph=True)[0] for column in g.unbind(1)]
    return g.detach(), torch.stack(rows, 1)


def zuko_cnf(features: int, hidden: tuple[int, ...] = (64, 64), *, exact: bool = True) -> Competitor:
    """zuko's continuous flow; judged with the exact trace."""
    flow = zuko.flows.CNF(features, hidden_features=hidden, exact=exact)

    def log_prob(x: Tensor) -> Tensor:
        flow.transform.exact = True
        try:
            return flow().log_prob(x)
        finally:
            flow.transform.exact = exact

    return Competitor(flow, lambda x: -flow().log_prob(x).mean(), log_prob)


def parameters(competitor: Competitor) -> int:
    """Number of trained numbers."""
    return sum(each.numel() for each in competitor.module.parameters() if each.requires_grad)


def finite_mean(values: Tensor) -> float:
    """The mean, infinite if one value is not finite: nothing is left out."""
    mean = float(values.double().mean())
    return mean if math.isfinite(mean) else math.inf
