"""Are the gradients of memory-saving training those of plain autograd?"""

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from invertible.errors import ConfigError, InvertibleError
from invertible.memory import MemoryOwner, Reversible, Strategy, owners, strategy
from invertible.stability.angles import Angle, GradientAngles, angle
from invertible.stability.passage import LOST
from invertible.stability.undisturbed import undisturbed

OWN = "own"
Gradients = dict[str, Tensor]
Groups = torch.optim.Optimizer | Mapping[str, Iterable[nn.Parameter]]


def gradient_angle(
    model: nn.Module,
    loss: Callable[[Any, Any], Tensor],
    batch: Any,  # noqa: ANN401
    *,
    memory: str | Strategy | None = None,
    groups: Groups | None = None,
    reference: bool = False,
    generator: torch.Generator | int | None = None,
) -> GradientAngles:
    """The angle between the gradient of stored activations and that of memory-saving training.

    A strategy that rebuilds activations by inverses gives the gradient at the rebuilt ones; where the inverse loses
    digits, it turns away from the true one, or is not finite (Behrmann et al. 2021, section 5.2 and figure 3). Both
    are taken at the same weights, with the same random numbers; the angle is 2 atan2(|u - v|, |u + v|) of the unit
    vectors, in float64, which resolves 1e-9 degrees where arccos would end at 1e-2 (Kahan 2006).

    The model comes out unchanged: memory settings and what chains remember, `.grad`, buffers, mode, random numbers.
    It runs in the mode in which it is: call `model.eval()` first for the paper's measurement.

    Args:
        model: any module with chains inside: a flow, or a classifier around a chain. All parameters that require
            grad take part.
        loss: `loss(model, batch)`, a scalar.
        batch: what the loss takes.
        memory: what to compare with, for all chains: `None` is `Reversible(guard=False)`, which shows what the guard
            would repair; `"own"` is what every chain has, guard included, as it is trained; else as `set_memory`
            takes it.
        groups: parameters to measure apart: an optimizer's groups, or parameters by name. `None` for every block of
            the innermost chains, and every child module outside of chains.
        reference: measure the stored gradient against that of a float64 copy as well, which tells whether float32
            is itself at fault. The loss must then draw no random numbers: those of float64 are others. Floating-point
            tensors of the batch are converted, in tuples, lists and dictionaries too.
        generator: a generator or a seed for the global random numbers; seed 0 if `None`.

    Raises:
        ConfigError: if the model has no chain or no parameter to train, if `memory="own"` and all chains store, or
            the loss is no scalar with a graph.

    Example:
        >>> found = gradient_angle(model, lambda model, batch: cross_entropy(model(batch[0]), batch[1]), (x, labels))
        >>> found.total.degrees, found.worst_group
    """
    chains = owners(model)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad and not is_lazy(p)}
    _check(model, chains, trained, memory)
    parts = _named_groups(model, trained, groups)
    own = {chain: chain.memory for chain in chains}
    chosen = own if memory == OWN else dict.fromkeys(chains, strategy(memory or Reversible(guard=False)))
    described = ", ".join(dict.fromkeys(map(repr, chosen.values())))
    if isinstance(generator, torch.Generator):
        seed = int(torch.randint(2**31, (), generator=generator, device=generator.device))
    else:
        seed = generator or 0
    with _settings_kept(chains):
        stored, loss_stored = _gradients(model, loss, batch, _storing(chains), seed)
        saving, loss_saving, message = _saving_gradients(model, loss, batch, chosen, seed)
    total = angle("total", list(stored.values()), [saving[name] for name in stored])
    each = tuple(
        angle(part, [stored[name] for name in names], [saving[name] for name in names]) for part, names in parts.items()
    )
    exact, loss_exact = _reference(model, loss, batch, stored, seed) if reference else (None, math.nan)
    return GradientAngles(total, each, exact, (loss_stored, loss_saving, loss_exact), described, message)


def _check(
    model: nn.Module, chains: Sequence[MemoryOwner], trained: Mapping[str, nn.Parameter], memory: str | Strategy | None
) -> None:
    if not chains:
        raise ConfigError(
            f"gradient_angle: expected a model with chains inside, got {type(model).__name__} without. Put its blocks "
            "into an invertible.Chain or Sequential: nothing else saves memory."
        )
    if not trained:
        raise ConfigError("gradient_angle: expected parameters that require grad, got none.")
    if memory == OWN and all(chain.memory.stores for chain in chains):
        raise ConfigError(
            "gradient_angle: memory='own' expects a model that saves memory, got chains that all store. Call "
            "set_memory(model, 'reversible') first, or leave memory out."
        )


def _storing(chains: Iterable[MemoryOwner]) -> dict[MemoryOwner, Strategy]:
    return dict.fromkeys(chains, strategy("store"))


def _saving_gradients(
    model: nn.Module,
    loss: Callable[[Any, Any], Tensor],
    batch: Any,  # noqa: ANN401
    memory: Mapping[MemoryOwner, Strategy],
    seed: int,
) -> tuple[Gradients, float, str]:
    """Gradients under a strategy; NaN, and the reason, where a block refuses to invert what it is given."""
    try:
        return *_gradients(model, loss, batch, memory, seed), ""
    except ConfigError:
        raise
    except (InvertibleError, *LOST) as error:
        lost = {name: torch.full_like(p, torch.nan) for name, p in model.named_parameters() if p.requires_grad}
        return lost, math.nan, f"{type(error).__name__}: {error}"


def _gradients(
    model: nn.Module,
    loss: Callable[[Any, Any], Tensor],
    batch: Any,  # noqa: ANN401
    memory: Mapping[MemoryOwner, Strategy],
    seed: int,
) -> tuple[Gradients, float]:
    """The gradient of every parameter that requires grad, 0 where the loss does not depend on it; and the loss."""
    modes = [(module, module.training) for module in model.modules()]
    with undisturbed(model, seed), torch.enable_grad():
        for module, training in modes:
            module.training = training
        for chain, chosen in memory.items():
            # An assignment starts an empty log, so that no earlier quarantine hides what is measured.
            chain.memory = chosen
        value = loss(model, batch)
        if not isinstance(value, Tensor) or value.numel() != 1 or not value.requires_grad:
            what = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            raise ConfigError(
                f"gradient_angle: expected loss(model, batch) to be a scalar tensor with a graph, got {what}. Take the "
                "mean over the batch."
            )
        named = {name: p for name, p in model.named_parameters() if p.requires_grad and not is_lazy(p)}
        found = torch.autograd.grad(value.sum(), list(named.values()), allow_unused=True)
    gradients = {
        name: torch.zeros_like(p) if g is None else g.detach()
        for (name, p), g in zip(named.items(), found, strict=True)
    }
    return gradients, value.item()


def _reference(
    model: nn.Module,
    loss: Callable[[Any, Any], Tensor],
    batch: Any,  # noqa: ANN401
    stored: Gradients,
    seed: int,
) -> tuple[Angle, float]:
    precise = copy.deepcopy(model).double()
    chains = owners(precise)
    exact, value = _gradients(precise, loss, _in_double(batch), _storing(chains), seed)
    return angle("float64", list(exact.values()), [stored[name] for name in exact]), value


def _in_double(batch: Any) -> Any:  # noqa: ANN401
    match batch:
        case Tensor():
            return batch.double() if batch.is_floating_point() else batch
        case dict():
            return {name: _in_double(each) for name, each in batch.items()}
        case list() | tuple():
            made = [_in_double(each) for each in batch]
            return type(batch)(*made) if hasattr(batch, "_fields") else type(batch)(made)
    return batch


@contextmanager
def _settings_kept(chains: Sequence[MemoryOwner]) -> Iterator[None]:
    names = ("_memory", "memory_log", "inverse_memory_log")
    before = [(chain, {name: chain.__dict__[name] for name in names}) for chain in chains]
    try:
        yield
    finally:
        for chain, attributes in before:
            chain.__dict__.update(attributes)


def _named_groups(model: nn.Module, trained: Mapping[str, nn.Parameter], groups: Groups | None) -> dict[str, list[str]]:
    """Names of parameters by name of their group."""
    if groups is None:
        found: dict[str, list[str]] = {}
        blocks = _blocks(model)
        for name in trained:
            found.setdefault(_group_of(name, blocks), []).append(name)
        return found
    if isinstance(groups, torch.optim.Optimizer):
        groups = {f"group {index}": group["params"] for index, group in enumerate(groups.param_groups)}
    names = {id(parameter): name for name, parameter in trained.items()}
    parts = {part: [names[id(p)] for p in parameters if id(p) in names] for part, parameters in groups.items()}
    if not any(parts.values()):
        raise ConfigError("gradient_angle: expected groups of the model's parameters, got none of them.")
    return {part: members for part, members in parts.items() if members}


def _blocks(model: nn.Module) -> dict[str, str]:
    """Path of every block of a chain, and what the block is."""
    return {
        f"{path}.blocks.{index}" if path else f"blocks.{index}": type(block).__name__
        for path, module in model.named_modules()
        if isinstance(module, MemoryOwner)
        for index, block in enumerate(module.blocks)
    }


def _group_of(name: str, blocks: Mapping[str, str]) -> str:
    """The innermost block that holds a parameter, or the model's child that does."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        path = ".".join(parts[:length])
        if path in blocks:
            return f"{path} {blocks[path]}"
    return parts[0]
