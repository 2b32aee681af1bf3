"""Which blocks of a map are asked for their bounds, and on which boxes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

from invertible.bijection import Bijection, Domain, LipschitzBounds


@dataclass(eq=False)
class Call:
    """A block that was asked for its bounds.

    Attributes:
        block: the block.
        domain: the boxes that it was asked about, `None` for the whole space.
        bounds: its answer.
        inner: the blocks that it asked to find it, in order.
    """

    block: Bijection
    domain: Domain | None
    bounds: LipschitzBounds
    inner: list[Call] = field(default_factory=list)


def watch(bijection: Bijection, domain: Domain | None) -> Call:
    """Ask a map for its bounds: the tree of the calls."""
    root = Call(bijection, domain, LipschitzBounds(math.inf, math.inf))
    recorder = _Recorder(root)
    with _recorded(bijection, recorder):
        bijection.bounds(domain)
    return root.inner[0]


class _Recorder:
    def __init__(self, root: Call) -> None:
        self.root, self.open, self.silent = root, [root], 0

    def ask(
        self, block: Bijection, bounds: Callable[[Domain | None], LipschitzBounds], domain: Domain | None = None
    ) -> LipschitzBounds:
        own = self.open[-1].block is block and self.open[-1] is not self.root
        if self.silent or own:
            return bounds(domain)
        call = Call(block, domain, self.root.bounds)
        self.open[-1].inner.append(call)
        self.open.append(call)
        try:
            call.bounds = bounds(domain)
        finally:
            self.open.pop()
        return call.bounds

    def follow(self, image: Callable[[Domain], Domain], domain: Domain) -> Domain:
        # Where boxes go is asked several times, and may ask for bounds on the way.
        self.silent += 1
        try:
            return image(domain)
        finally:
            self.silent -= 1


@contextmanager
def _recorded(bijection: Bijection, recorder: _Recorder) -> Iterator[None]:
    blocks = [module for module in bijection.modules() if isinstance(module, Bijection)]
    before = [
        {name: block.__dict__[name] for name in ("bounds", "image") if name in block.__dict__} for block in blocks
    ]
    try:
        for block in blocks:
            block.bounds, block.image = (
                partial(recorder.ask, block, block.bounds),
                partial(recorder.follow, block.image),
            )
        yield
    finally:
        for block, own in zip(blocks, before, strict=True):
            for name in ("bounds", "image"):
                block.__dict__.pop(name, None)
            block.__dict__.update(own)
