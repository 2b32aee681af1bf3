"""The blocks of a map beside their copies in the working dtype, and the states that pass through them."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from invertible.bijection import Bijection, Inverted
from invertible.memory.step import State, Step
from invertible.stability.blockwise import block_paths
from invertible.stability.states import replaced, unknown
from invertible.steps import BlockStep, Cut, Merge


@dataclass(frozen=True)
class Stage:
    """One block of the map: in the model's own dtype, which solves, and in the working one, which judges.

    Attributes:
        path: where the block stands and what it is.
        own: its step in the model's dtype.
        precise: the same step of the model's copy in the working dtype.
        rearranges: whether it only cuts its input in two or puts two together, so that no number changes.
    """

    path: str
    own: Step
    precise: Step
    rearranges: bool


@dataclass
class Trajectory:
    """The inputs of all blocks in the working dtype, and what the blocks make of them.

    Attributes:
        states: x_0 ... x_n; x_n = y.
        images: f_0(x_0) ... f_{n-1}(x_{n-1}).
    """

    states: list[State]
    images: list[State]

    @property
    def x(self) -> Tensor:
        """x_0, the inverse that was found."""
        return self.states[0][0]

    def rows(self, rows: Tensor) -> Trajectory:
        """The samples of the given indices."""
        return Trajectory(
            *([tuple(x[rows.to(x.device)] for x in s) for s in each] for each in (self.states, self.images))
        )

    def replaced(self, rows: Tensor, other: Trajectory) -> Trajectory:
        """The samples of the given indices taken from another trajectory, whose samples those are."""
        return Trajectory(
            [replaced(a, rows, b) for a, b in zip(self.states, other.states, strict=True)],
            [replaced(a, rows, b) for a, b in zip(self.images, other.images, strict=True)],
        )

    def lost(self) -> Trajectory:
        """One of the same shapes and the same y, in which nothing else is known."""
        return Trajectory(
            [*(unknown(state) for state in self.states[:-1]), self.states[-1]],
            [unknown(state) for state in self.images],
        )


@dataclass(frozen=True)
class Estimate:
    """What one more sweep would change, to first order.

    Attributes:
        error: |delta_0|_2, the estimated error of x, of shape (B,).
        residuals: |r_k|_2 / |x_{k+1}|_2 of every block, of shape (blocks, B).
        growth: |delta_k|_2 / |delta_{k+1} + r_k|_2, by how much block k multiplies an error on the way back, of shape
            (blocks, B).
    """

    error: Tensor
    residuals: Tensor
    growth: Tensor


def stages(bijection: Bijection, precise: Bijection, *, whole: bool = False) -> list[Stage]:
    """The blocks of a map, each beside its copy; a single one, if the map is to be taken as a whole."""
    paths = block_paths(bijection)
    if whole:
        return [Stage(paths[bijection], BlockStep(bijection), BlockStep(precise), rearranges=False)]
    pairs = zip(bijection.whole_steps(), precise.whole_steps(), strict=True)
    return [Stage(_path(own, paths), own, copy, isinstance(own, (Cut, Merge))) for own, copy in pairs]


def _path(step: Step, paths: dict[nn.Module, str]) -> str:
    found = []
    for module in step.modules:
        # A step that was turned round may hold a wrapper of its own.
        known = module if module in paths or not isinstance(module, Inverted) else module.bijection
        found.append(paths.get(known, step.name))
    return " and ".join(dict.fromkeys(found)) or step.name
