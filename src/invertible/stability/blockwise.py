"""Round trips block by block: which block loses the inverse, and where the way back breaks off."""

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from invertible.bijection import Bijection, Inverted
from invertible.errors import ConfigError, ShapeError
from invertible.shapes import finite_rows
from invertible.stability.batches import largest, rows_of
from invertible.stability.passage import LOST, Direction, relative_error, send


@dataclass(frozen=True)
class BlockErrors:
    """Errors of one block in a map.

    Attributes:
        path: where the block stands and what it is, such as `bijection.blocks[3] (AffineCoupling)`.
        own: errors of the block's own round trip on the activations that reach it, as
            `round_trip.relative_error`, of shape (B,); `inf` where lost, NaN where they are not finite themselves.
        back: errors of its input as recovered on the way back through the whole map, of shape (B,): its own and what
            the blocks behind it hand on; NaN where the way back did not get there.
        amplification: by how much it multiplies the error on the way back, |x' - x|_2 / max(|y' - y|_2, eps |y|_2),
            x its input and y its output, of shape (B,); `inf` where it loses the sample, NaN where it never got it.
        output_finite: samples whose output is finite on the way there, boolean of shape (B,).
    """

    path: str
    own: Tensor
    back: Tensor
    amplification: Tensor
    output_finite: Tensor


@dataclass(frozen=True)
class BlockRoundTrips:
    """Errors of all blocks of a map that hold no further blocks.

    Attributes:
        blocks: in the order in which the data passes them.
        eps: unit of rounding of the dtype in which they were measured.
        stopped_at: the block that raised an error, and the way, `"there"` or `"back"`; `None` if none did.
        stopped_by: that error.
    """

    blocks: tuple[BlockErrors, ...]
    eps: float
    stopped_at: tuple[str, str] | None = None
    stopped_by: str = ""

    @property
    def first_loss(self) -> tuple[str, str] | None:
        """The first block at which a sample turns non-finite or an error is raised, and on which way.

        The way there (`"there"`) comes before the way back (`"back"`); `None` if nothing of the kind happens.
        """
        for block in self.blocks:
            if not bool(block.output_finite.all()):
                return block.path, "there"
        for block in reversed(self.blocks):
            if bool(block.back.isinf().any()):
                return block.path, "back"
        return self.stopped_at

    @property
    def worst(self) -> BlockErrors | None:
        """The block that loses the digits; `None` if none was measured.

        The first one at which a sample turns non-finite on the way there; else the one that multiplies the error of a
        sample most on the way back, the first that the way back meets if several lose samples. A wrong inverse counts
        as well, for what it adds is far above the rounding of its output.
        """
        for block in self.blocks:
            if not bool(block.output_finite.all()):
                return block
        measured = [block for block in reversed(self.blocks) if not bool(block.amplification.isnan().all())]
        return max(measured, key=lambda block: largest(block.amplification), default=None)

    def __str__(self) -> str:
        width = max((len(block.path) for block in self.blocks), default=0)
        worst = self.worst
        lines = [f"{'block':{width}}{'own':>10}{'way back':>10}{'times':>10}{'lost':>6}"]
        for block in self.blocks:
            figures = largest(block.own) / self.eps, largest(block.back) / self.eps, largest(block.amplification)
            line = f"{block.path:{width}}" + "".join(f"{figure:10.3g}" for figure in figures)
            lines.append(f"{line}{int(block.back.isinf().sum()):6}{'  <- worst' if block is worst else ''}")
        if self.stopped_at is not None:
            lines.append(f"stopped at {self.stopped_at[0]}, on the way {self.stopped_at[1]}: {self.stopped_by}")
        lines.append("worst samples; own and way back in eps; times: the growth of an error on the way back")
        return "\n".join(lines)


@dataclass(eq=False)
class _Call:
    module: Bijection
    way: str
    condition: Tensor | None
    start: Tensor
    end: Tensor
    is_leaf: bool = True


class _Recorder:
    """The calls of blocks that call no blocks themselves, in order; and those that have not returned yet."""

    def __init__(self) -> None:
        self.calls: list[_Call] = []
        self.open: list[_Call] = []

    def begin(self, module: Bijection, way: str, x: Tensor, condition: Tensor | None) -> None:
        if self.open and self.open[-1].module is not module:
            self.open[-1].is_leaf = False
        self.open.append(_Call(module, way, condition, x.detach(), x.detach()))

    def finish(self, output: tuple[Tensor, Tensor]) -> None:
        call = self.open.pop()
        call.end = output[0].detach()
        if call.is_leaf and not (self.open and self.open[-1].module is call.module):
            self.calls.append(call)


@torch.no_grad()
def block_round_trips(bijection: Bijection, x: Tensor, condition: Tensor | None = None) -> BlockRoundTrips:
    """Measure every block's own round trip on the activations that reach it, and follow the way back.

    Blocks are found by watching which ones run, so chains in chains, factored-out halves, inverted blocks and
    containers of one's own are followed without knowing them; a container takes part as long as it calls its blocks,
    `block(x)` and `block.inverse(y)`. For latents, give `bijection.inverted`.

    Args:
        bijection: the map, in the mode in which it is to be measured.
        x: data, shape (B, ...), B >= 1.
        condition: its condition, of B rows.

    Raises:
        ShapeError: if x is not what the map takes.
    """
    names = block_paths(bijection)
    there, output, stop = _trace(bijection, "forward", x, condition)
    way, back, rows = "there", [], torch.empty(0, dtype=torch.long, device=x.device)
    if output is not None:
        rows = finite_rows(output).cpu().nonzero().flatten().to(output.device)
        if len(rows):
            way, chosen = "back", rows_of(condition, rows)
            back, _, stop = _trace(bijection, "inverse", output[rows], chosen)
    blocks = tuple(
        BlockErrors(names[call.module], _own(call), *_returned(call, undone, rows), finite_rows(call.end).cpu())
        for call, undone in zip(there, _matched(there, back), strict=True)
    )
    eps = torch.finfo(x.dtype).eps
    if stop is None:
        return BlockRoundTrips(blocks, eps)
    call, error = stop
    return BlockRoundTrips(blocks, eps, (names[call.module], way), f"{type(error).__name__}: {error}")


def _trace(
    bijection: Bijection, way: str, x: Tensor, condition: Tensor | None
) -> tuple[list[_Call], Tensor | None, tuple[_Call, Exception] | None]:
    """The calls, the output of the whole map, and the innermost call that raised an error with that error."""
    recorder = _Recorder()
    with _watched(bijection, recorder):
        try:
            output, _ = bijection(x, condition) if way == "forward" else bijection.inverse(x, condition)
        except (ShapeError, ConfigError):
            raise
        except LOST as error:
            return recorder.calls, None, (recorder.open[-1], error)
    return recorder.calls, output, None


@contextmanager
def _watched(bijection: Bijection, recorder: _Recorder) -> Iterator[None]:
    blocks = [module for module in bijection.modules() if isinstance(module, Bijection)]
    hooks = []
    try:
        for block in blocks:
            # A hooked block also receives whole tensors: a chain hands parts on only among blocks without hooks.
            hooks.append(block.register_forward_pre_hook(partial(_before, recorder), with_kwargs=True))
            hooks.append(block.register_forward_hook(partial(_after, recorder)))
            block.inverse = partial(_inverse, recorder, block, block.inverse)
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for block in blocks:
            block.__dict__.pop("inverse", None)


def _before(recorder: _Recorder, module: Bijection, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    named = dict(zip(("x", "condition"), args, strict=False)) | kwargs
    recorder.begin(module, "forward", named["x"], named.get("condition"))


def _after(recorder: _Recorder, _module: nn.Module, _args: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    recorder.finish(output)


def _inverse(
    recorder: _Recorder, block: Bijection, inverse: Direction, y: Tensor, condition: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    recorder.begin(block, "inverse", y, condition)
    output = inverse(y, condition)
    recorder.finish(output)
    return output


def _matched(there: list[_Call], back: list[_Call]) -> list[_Call | None]:
    """For each call there, the one that undid it: calls are undone in reverse order."""
    found: list[_Call | None] = []
    waiting = list(back)
    for call in reversed(there):
        undone = next((c for c in waiting if c.module is call.module and c.way != call.way), None)
        found.append(undone)
        if undone is not None:
            waiting.remove(undone)
    return found[::-1]


def _returned(call: _Call, undone: _Call | None, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Errors of a call's input on the way back, and by how much they exceed those of its output."""
    back = torch.full((len(call.start),), math.nan, dtype=torch.float64)
    amplification = back.clone()
    if undone is not None and undone.end.shape == call.start[rows].shape:
        x, y, eps = call.start[rows], call.end[rows], torch.finfo(call.start.dtype).eps
        at_output = _distance(undone.start, y)
        growth = _distance(undone.end, x) / torch.maximum(at_output, eps * _distance(y, torch.zeros_like(y)))
        arrived = at_output.isfinite()
        back[rows.cpu()] = torch.where(arrived, relative_error(x, undone.end), math.nan)
        amplification[rows.cpu()] = torch.where(arrived, growth.nan_to_num(nan=math.inf, posinf=math.inf), math.nan)
    return back, amplification


def _distance(a: Tensor, b: Tensor) -> Tensor:
    return torch.linalg.vector_norm((a.cpu().double() - b.cpu().double()).reshape(len(a), -1), dim=1)


def _own(call: _Call) -> Tensor:
    back = call.module.inverse if call.way == "forward" else call.module.__call__
    returned = send(back, call.end, call.condition).output
    if returned.shape == call.start.shape:
        error = relative_error(call.start, returned)
    else:
        error = torch.full((len(call.start),), math.inf, dtype=torch.float64)
    return torch.where(finite_rows(call.start).cpu(), error, math.nan)


def block_paths(bijection: Bijection) -> dict[nn.Module, str]:
    """Every module's path in Python's notation, with its class."""
    # Latents are measured on the inverted map; its path is that of the map itself.
    root = "" if isinstance(bijection, Inverted) else "bijection"
    found = {}
    for name, module in bijection.named_modules():
        path = re.sub(r"\.(\d+)(?=\.|$)", r"[\1]", ".".join(part for part in (root, name) if part))
        found[module] = f"{path} ({type(module).__name__})"
    return found
