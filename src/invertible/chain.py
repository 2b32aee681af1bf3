"""Composition of bijections."""

from collections.abc import Iterator, Sequence
from typing import overload

from torch import Tensor, nn

from invertible.ball import input_side, joined, output_side
from invertible.bijection import Bijection, Domain, LipschitzBounds
from invertible.errors import ConfigError
from invertible.fusion import run_forward, run_inverse, runs, steps_of
from invertible.memory import Log, MemoryOwner, Step, Strategy, owners, strategy
from invertible.norms import outward, remembered
from invertible.shapes import zero_log_det


class Chain(MemoryOwner, Bijection):
    """Composition of bijections, the first one applied first: y = f_n(... f_2(f_1(x))).

    log|det dy/dx| = sum_k log|det J_k|; the inverse runs the blocks backwards. Indexes, slices and iterates like
    `torch.nn.Sequential`. Consecutive blocks that are cheaper together are evaluated together: see `fusion`.

    Args:
        *blocks: the bijections; none gives the identity. Blocks that take a condition and blocks that take none
            may be mixed: each is given what it takes.
        memory: how activations are kept for the backward pass: `"store"`, `"checkpoint"`, `"recursive"`,
            `"reversible"`, `"exact"`, a budget such as `"512MiB"`, or a strategy of `invertible.memory`. Chains within
            the chain are part of its passes, whatever their own setting.

    Attributes:
        memory: the strategy; assign one, or use `set_memory` on a model.
        memory_log: what the chain remembers of its forward passes; `memory.report(model)` shows it.
        inverse_memory_log: the same of passes through its inverse.

    Shapes:
        x and y as the first and the last block have them; log_det (B,).

    Raises:
        ConfigError: if a block is no `Bijection`, or two blocks take conditions of different widths.

    Example:
        >>> flow = Chain(ActNorm(64), InvertibleLinear(64), AffineCoupling(64))
        >>> y, log_det = flow(x)
        >>> x, _ = flow.inverse(y)
    """

    def __init__(self, *blocks: Bijection, memory: str | Strategy = "store") -> None:
        super().__init__()
        for index, block in enumerate(blocks):
            if not isinstance(block, Bijection):
                raise ConfigError(
                    f"Chain: expected block {index} to be a Bijection, got {type(block).__name__}. "
                    "Derive it from invertible.Bijection and give it forward and inverse."
                )
        self.blocks = nn.ModuleList(blocks)
        widths = {block.condition_features for block in blocks} - {0}
        if len(widths) > 1:
            raise ConfigError(f"Chain: expected one condition for all blocks, got condition_features {sorted(widths)}.")
        self.condition_features = widths.pop() if widths else 0
        self.memory = memory

    def steps(self) -> list[Step]:
        """The blocks' steps, neighbours that are cheaper together as one."""
        return [step for run in runs(self) for step in steps_of(run)]

    def forward(self, x: Tensor, condition: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Apply the blocks in order; (y, log_det), log_det of shape (B,)."""
        self._check(x, condition)
        if self.memory.applies():
            return self._drive(self.steps(), x, condition, self.memory_log)
        total = zero_log_det(x)
        for run in runs(self):
            x, log_det = run_forward(run, x, condition)
            total = total + log_det
        return x, total

    def inverse(self, y: Tensor, condition: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Apply the blocks' inverses in reverse order; (x, log_det), log_det of shape (B,)."""
        self._check(y, condition)
        if self.memory.applies():
            steps = [step.inverted for step in reversed(self.steps())]
            return self._drive(steps, y, condition, self.inverse_memory_log)
        total = zero_log_det(y)
        for run in runs(reversed(list(self))):
            y, log_det = run_inverse(run, y, condition)
            total = total + log_det
        return y, total

    def _drive(self, steps: Sequence[Step], x: Tensor, condition: Tensor | None, log: Log) -> tuple[Tensor, Tensor]:
        state, total = self.memory.run(steps, (x,), condition, log)
        return state[0], zero_log_det(x) if total is None else total

    def bounds(self, domain: Domain | None = None) -> LipschitzBounds:
        """Products of the blocks' bounds; on a domain, each block's on the boxes that reach it."""
        total = LipschitzBounds(1.0, 1.0)
        with remembered():
            for block, local in zip(self, self._domains(domain), strict=True):
                total = block.bounds(local) @ total
        return LipschitzBounds(outward(total.forward, len(self)), outward(total.inverse, len(self)))

    def image(self, domain: Domain) -> Domain:
        """The boxes followed through all blocks."""
        with remembered():
            return joined(self._reached(domain)[-1], self._reached_back(domain)[0]).turned

    def _domains(self, domain: Domain | None) -> list[Domain | None]:
        if domain is None:
            return [None] * len(self)
        there, back = self._reached(domain), self._reached_back(domain)
        return [joined(x, y) for x, y in zip(there[:-1], back[1:], strict=True)]

    def _reached(self, domain: Domain) -> list[Domain]:
        """What is known of x before every block, and behind the last one."""
        found = [input_side(domain)]
        for block in self:
            found.append(input_side(block.image(found[-1]).turned))
        return found

    def _reached_back(self, domain: Domain) -> list[Domain]:
        """What is known of y before every block and behind the last one, on the way back."""
        found = [output_side(domain)]
        for block in reversed(list(self)):
            found.append(output_side(block.image(found[-1]).turned))
        return found[::-1]

    def __iter__(self) -> Iterator[Bijection]:
        return iter(self.blocks)  # pyright: ignore[reportReturnType]

    def __len__(self) -> int:
        return len(self.blocks)

    @overload
    def __getitem__(self, index: int) -> Bijection: ...
    @overload
    def __getitem__(self, index: slice) -> "Chain": ...
    def __getitem__(self, index: int | slice) -> "Bijection | Chain":
        """Block `index`, or the chain of a slice; parameters are shared."""
        if isinstance(index, slice):
            return Chain(*list(self)[index], memory=self.memory)
        return self.blocks[index]  # pyright: ignore[reportReturnType]


def set_memory(model: nn.Module, memory: str | Strategy) -> nn.Module:
    """Give every chain and every sequence inside a model one strategy for the activations of its backward pass.

    Args:
        model: a flow, a classifier, a chain, or any module that holds chains.
        memory: a name or a strategy, as `Chain` takes it.

    Returns:
        The model itself.

    Raises:
        ConfigError: if the name is unknown, or the model holds no chain.

    Example:
        >>> set_memory(flow, "reversible")
    """
    chosen = strategy(memory)
    found = owners(model)
    if not found:
        raise ConfigError(
            f"set_memory: expected a model with chains inside, got {type(model).__name__} without. Put its blocks "
            "into an invertible.Chain, or any modules into an invertible.Sequential."
        )
    for owner in found:
        owner.memory = chosen
    return model
