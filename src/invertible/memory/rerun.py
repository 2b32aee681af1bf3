"""A module run again and again from the same state, and put back as it was."""

from __future__ import annotations

import pickle
import random
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from invertible.errors import ConfigError
from invertible.memory.guard import TOLERANCES

Tensors = tuple[Tensor, ...]
Prepare = Callable[[Tensor], Tensor]
# The largest |a - b| of two outputs, and the largest ‖a - b‖ / ‖b‖ of a tensor.
Figures = tuple[float, float]
EQUAL: Figures = (0.0, 0.0)
# Atomic additions on CUDA give other bits now and then, not always.
REPEATS = 3


@dataclass(frozen=True)
class Entry:
    """A parameter, buffer or attribute of a module, as it was."""

    kind: str
    name: str
    table: dict[str, Any]
    key: str
    value: Any
    copy: Tensor | None
    version: int

    @property
    def changed(self) -> bool:
        """Whether it is another object now, or has other values."""
        now = self.table.get(self.key)
        if self.copy is None or not isinstance(now, Tensor):
            return now is not self.value
        return difference((now,), (self.copy,)) != EQUAL

    @property
    def hidden(self) -> bool:
        """Whether it changed without a trace that the strategies see: the same tensor, of the same version."""
        return self.value is None or (self.table.get(self.key) is self.value and self.value._version == self.version)

    def put_back(self) -> None:
        """The same object with the same values."""
        self.table[self.key] = self.value
        if self.copy is not None and not torch.equal(self.value, self.copy):
            self.value.copy_(self.copy)


def entries(module: nn.Module) -> Iterator[Entry]:
    """All parameters, buffers and attributes."""
    for path, each in module.named_modules():
        tables: list[tuple[str, dict[str, Any]]] = [
            ("parameter", each._parameters),
            ("buffer", each._buffers),
            ("attribute", vars(each)),
        ]
        for kind, table in tables:
            for key, value in table.items():
                copy, version = (value.detach().clone(), value._version) if isinstance(value, Tensor) else (None, 0)
                yield Entry(kind, f"{path}.{key}".lstrip("."), table, key, value, copy, version)


class Source:
    """A source of random numbers that no strategy restores."""

    def __init__(self, name: str, read: Callable[[], Any], write: Callable[[Any], object]) -> None:
        self.name, self.read, self.write, self.before = name, read, write, read()

    def state(self) -> bytes:
        """The state, to be compared."""
        state = self.read()
        return pickle.dumps(state.tolist() if isinstance(state, Tensor) else state)

    def put_back(self) -> None:
        """The same state."""
        self.write(self.before)


def sources(attributes: list[Entry]) -> Iterator[Source]:
    """The global generators of numpy and Python, and those that a module holds."""
    yield Source("numpy.random", np.random.get_state, np.random.set_state)
    yield Source("Python's random", random.getstate, random.setstate)
    for name, value in [(each.name, each.value) for each in attributes]:
        if isinstance(value, torch.Generator):
            yield Source(name, value.get_state, value.set_state)
        elif isinstance(value, np.random.Generator):
            bits = value.bit_generator
            yield Source(name, partial(getattr, bits, "state"), partial(setattr, bits, "state"))
        elif isinstance(value, random.Random):
            yield Source(name, value.getstate, value.setstate)


def difference(outputs: Tensors, reference: Tensors) -> Figures:
    """How far two outputs are apart; NaN is like NaN, and an infinity like itself."""
    if [x.shape for x in outputs] != [x.shape for x in reference]:
        return float("inf"), float("inf")
    largest = relative = 0.0
    for a, b in zip(outputs, reference, strict=True):
        if not torch.equal(a, b):
            a, b = (x.detach().to(torch.complex128 if x.is_complex() else torch.float64) for x in (a, b))
            alike = (a == b) | (a.isnan() & b.isnan())
            gap = (a - b).abs().masked_fill(alike, 0.0).nan_to_num(nan=torch.inf, posinf=torch.inf)
            norm = b.abs().nan_to_num(0.0, 0.0).norm().clamp_min(torch.finfo(torch.float32).tiny)
            largest, relative = max(largest, float(gap.max())), max(relative, float(gap.norm() / norm))
    return largest, relative


def leaves(output: object) -> Iterator[Tensor]:
    """All tensors of a nest of tuples, lists and dictionaries."""
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, Mapping | tuple | list):
        for each in output.values() if isinstance(output, Mapping) else output:
            yield from leaves(each)


def as_it_is(x: Tensor) -> Tensor:
    """The input."""
    return x


class Trial:
    """Runs of a module from the same parameters, buffers and random numbers.

    Args:
        module: the module.
        inputs: what all runs get, in copies.
        compiles: whether to compile.

    Attributes:
        outputs: of the first run, with which others are compared; of the second, if the first set parameters.
        initialised: parameters that the first run set.
        repeated: how far repeated runs are from the first.
        tolerance: what the strategies take for rounding.
    """

    def __init__(self, module: nn.Module, inputs: Tensors, *, compiles: bool) -> None:
        self.module, self.inputs, self.compiles = module, inputs, compiles
        self.entries = self.original = list(entries(module))
        self.sources = list(sources(self.original))
        tensors = *inputs, *module.parameters(), *module.buffers()
        self.cuda = sorted({x.device for x in tensors if x.is_cuda}, key=str)

    def begin(self) -> None:
        """The runs with which others are compared."""
        first = self._observe()
        self.initialised = self.names("parameter")
        if self.initialised:
            self.entries = list(entries(self.module))
            self._observe()
        self.repeated = max(difference(self.run(), first) for _ in range(REPEATS))
        self.tolerance = max(TOLERANCES.get(x.dtype, 1e-4) for x in first)

    def _observe(self) -> Tensors:
        """Run, and note what the run did besides."""
        inputs = tuple(x.clone() for x in self.inputs)
        versions, places = [x._version for x in inputs], {x.untyped_storage().data_ptr() for x in inputs}
        with self.fork():
            before, states = self._random_state(), [each.state() for each in self.sources]
            result = self.module(*inputs)
            self.drawn_from = [x.name for x, state in zip(self.sources, states, strict=True) if x.state() != state]
            self.drew = self._random_state() != before
        outputs = list(leaves(result))
        if not outputs:
            raise ConfigError("check_determinism: expected a module that returns tensors, got none. Wrap it in one.")
        self.changed = [each for each in self.entries if each.changed]
        self.modified = [x._version for x in inputs] != versions or difference(inputs, self.inputs) != EQUAL
        self.shares = any(x.untyped_storage().data_ptr() in places for x in outputs)
        self.hidden = {each.name for each in self.changed if each.kind == "buffer" and each.hidden}
        self.outputs = tuple(x.detach().clone() for x in outputs)
        return self.outputs

    def _random_state(self) -> list[list[int]]:
        on_cuda = [torch.cuda.get_rng_state(each) for each in self.cuda]
        return [state.tolist() for state in (torch.get_rng_state(), *on_cuda)]

    def names(self, kind: str) -> list[str]:
        """The parameters, buffers or attributes that the first run has changed."""
        return [each.name for each in self.changed if each.kind == kind]

    def fork(self) -> AbstractContextManager[None]:
        """A context that puts the state of torch's default generators back."""
        return torch.random.fork_rng(devices=self.cuda)

    def run(
        self, prepare: Prepare = as_it_is, *, module: Callable[..., object] | None = None, keep: Collection[str] = ()
    ) -> Tensors:
        """The outputs from the state of the first run, save the buffers named in `keep`."""
        with torch.no_grad():
            for each in self.entries:
                if each.kind != "attribute" and each.name not in keep:
                    each.put_back()
        with self.fork():
            outputs = (module or self.module)(*(prepare(x.clone()) for x in self.inputs))
        return tuple(x.detach().clone() for x in leaves(outputs))

    def compared(
        self, prepare: Prepare = as_it_is, *, module: Callable[..., object] | None = None, keep: Collection[str] = ()
    ) -> Figures:
        """How far the outputs are from those of the first run."""
        return difference(self.run(prepare, module=module, keep=keep), self.outputs)

    @torch.no_grad()
    def end(self) -> None:
        """Put everything back."""
        keys = {(id(each.table), each.key) for each in self.original}
        for table in {id(each.table): each.table for each in self.original}.values():
            for key in [key for key in table if (id(table), key) not in keys]:
                del table[key]
        for each in (*self.original, *self.sources):
            each.put_back()
