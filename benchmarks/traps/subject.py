"""What a trap is set for: a competitor's chain beside the same network with stored activations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import chains
import torch
from chains import nets
from torch import Tensor, nn

BLOCKS, BATCH, CHANNELS, SIZE = 3, 4, 8, 6
Tensors = dict[str, Tensor | None]
Scenario = Callable[["Trial"], Tensors]


class WrongError(Exception):
    """Something came out silently wrong."""


class NotApplicableError(Exception):
    """The competitor has nothing to which the trap applies."""


@dataclass(frozen=True)
class Setup:
    """What a trial is built from.

    Attributes:
        net: maker of the inner networks.
        blocks: how many.
        dtype: of weights and data.
        log_scale: for affine blocks.
        keep_rng: switch on the competitor's own option to restore the random state.
        prepare: called with the pairs of networks before the chain is built from them.
    """

    net: nets.NetFactory = nets.smooth
    blocks: int = BLOCKS
    dtype: torch.dtype = torch.float64
    log_scale: nets.LogScale | None = None
    keep_rng: bool = False
    prepare: Callable[[nets.Pairs], nets.Pairs] = lambda pairs: pairs


class Trial:
    """A chain, its inner networks and a batch.

    Attributes:
        pairs: the networks (F, G) of every block.
        model: the chain.
        x: a batch, a leaf that requires grad.
        weights: of a linear loss.
    """

    def __init__(self, name: str, setup: Setup, *, warm: bool = False):
        self.name, self.setup = name, setup
        made = nets.make_pairs(setup.blocks, CHANNELS, setup.net, affine=setup.log_scale is not None)
        self.pairs = setup.prepare(made)
        for module in self.modules():
            module.to(setup.dtype)
        self.model = self.build(self.pairs)
        generator = torch.Generator().manual_seed(1)
        shape = (BATCH, CHANNELS, SIZE, SIZE)
        # Two tensors, not two views of one: some competitors free what lies under their input.
        x, self.weights = (torch.randn(shape, generator=generator, dtype=torch.float64).to(setup.dtype) for _ in "xw")
        self.x = x.requires_grad_()
        if warm:
            self.step()
            for tensor in (self.x, *self.parameters()):
                tensor.grad = None

    def build(self, pairs: nets.Pairs) -> nn.Module:
        """The competitor's chain of the given networks."""
        options = {"log_scale": self.setup.log_scale, "keep_rng": self.setup.keep_rng}
        model = chains.build(self.name, pairs, **options)
        if model is None:
            raise NotApplicableError("has no such block")
        return model

    def hidden(self) -> Tensor:
        """The batch as it comes out of a stem: no leaf."""
        return self.x * 1

    def loss(self, y: Tensor) -> Tensor:
        """A linear loss, which keeps no output alive."""
        return (y * self.weights).sum()

    def modules(self) -> list[nn.Module]:
        """The inner networks."""
        return [net for pair in self.pairs for net in pair]

    def parameters(self) -> list[nn.Parameter]:
        """Those of the inner networks, each once, in the same order for every competitor."""
        return nets.parameters(self.pairs)

    def gradients(self) -> Tensors:
        """What a backward pass has left."""
        return {"gradient of x": self.x.grad, **named("gradient of parameter", (p.grad for p in self.parameters()))}

    def step(self) -> Tensors:
        """One forward and backward pass: output and gradients."""
        y = self.model(self.hidden())
        self.loss(y).backward()
        return {"output": y, **self.gradients()}


def named(words: str, tensors) -> Tensors:
    """Tensors by number."""
    return {f"{words} {index}": tensor for index, tensor in enumerate(tensors)}


@dataclass(frozen=True)
class Subject:
    """A competitor under test.

    Attributes:
        name: of the competitor.
        warm: give every chain a step first: some look closer at their first than at later ones.
    """

    name: str
    warm: bool = False

    @property
    def reference(self) -> str:
        """The same network with stored activations."""
        return chains.COMPETITORS[self.name].reference

    def trial(self, setup: Setup) -> Trial:
        """A trial of the competitor."""
        return Trial(self.name, setup, warm=self.warm)

    def true(self, setup: Setup) -> Trial:
        """The same trial with stored activations."""
        return Trial(self.reference, setup, warm=self.warm)

    def agree(
        self,
        scenario: Scenario,
        setup: Setup | None = None,
        *,
        tolerance: float = 1e-8,
        truth: Scenario | None = None,
    ) -> None:
        """Run a scenario with stored activations, and with the competitor's.

        Args:
            scenario: works on a trial and returns what is to be compared.
            setup: what the trials are built from.
            tolerance: largest relative difference of a tensor, in the 2-norm.
            truth: what should come out, where the scenario itself is refused by stored activations.

        Raises:
            WrongError: if they differ.
        """
        setup = setup or Setup()
        trial = self.trial(setup)  # first: a competitor that lacks the block has nothing to compare
        expected = _run(truth or scenario, self.true(setup))
        compare(_run(scenario, trial), expected, tolerance)


def _run(scenario: Scenario, trial: Trial) -> Tensors:
    torch.manual_seed(2)
    return {name: value if value is None else value.detach().clone() for name, value in scenario(trial).items()}


def compare(found: Tensors, expected: Tensors, tolerance: float) -> None:
    """Raise `WrongError` at the worst tensor, if it is off; no gradient counts as one of zeros."""
    name, worst = largest_error(found, expected)
    if not worst <= tolerance:
        missing = " (there is none)" if found[name] is None else ""
        raise WrongError(f"{name}: off by {worst:.1e}, tolerance {tolerance:.0e}{missing}")


def largest_error(found: Tensors, expected: Tensors) -> tuple[str, float]:
    """The worst tensor and its relative error, in the 2-norm; tensors near zero are measured by the largest."""
    norms = {name: 0.0 if value is None else float(value.double().norm()) for name, value in expected.items()}
    floor = max(1e-3 * max(norms.values()), 1e-300)
    errors = {name: _distance(found[name], value) / max(norms[name], floor) for name, value in expected.items()}
    name = max(errors, key=lambda key: (errors[key] != errors[key], errors[key]))
    return name, errors[name]


def _distance(a: Tensor | None, b: Tensor | None) -> float:
    if a is None or b is None:
        present = b if a is None else a
        return 0.0 if present is None else float(present.double().norm())
    if a.shape != b.shape:
        return float("inf")
    return float((a.double() - b.double()).norm())
