"""Measure a module and leave no trace: mode, parameters, buffers and random numbers are as before."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy


@contextmanager
def undisturbed(module: nn.Module, seed: int = 0) -> Iterator[None]:
    """Run the body with the module in eval mode and the global generators seeded, then put everything back.

    What a first batch initialises, such as the scale of an activation norm, is initialised within and forgotten.

    Args:
        module: the module to measure; its parameters are copied for the while.
        seed: of the global generators within, for models that draw random numbers from them.
    """
    # Beside the mode, such flags as "initialise on the next batch", which other libraries keep in no buffer.
    flags = [(each, {k: v for k, v in vars(each).items() if isinstance(v, bool)}) for each in module.modules()]
    state = [
        (store, name, tensor, tensor.detach().clone())
        for each in module.modules()
        for store in (each._parameters, each._buffers)
        for name, tensor in store.items()
        if tensor is not None and not is_lazy(tensor)
    ]
    with torch.random.fork_rng(devices=_devices(module)):
        torch.manual_seed(seed)
        module.eval()
        try:
            yield
        finally:
            with torch.no_grad():
                _restore(state)
            for each, before in flags:
                vars(each).update(before)


def _restore(state: Sequence[tuple[Any, str, Tensor, Tensor]]) -> None:
    for store, name, tensor, before in state:
        store[name] = tensor
        if not torch.equal(tensor, before):
            tensor.copy_(before)


def _devices(module: nn.Module) -> list[torch.device]:
    tensors = [*module.parameters(), *module.buffers()]
    return sorted({tensor.device for tensor in tensors if tensor.device.type == "cuda"}, key=str)
