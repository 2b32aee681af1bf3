"""torch.func, and the other tools of PyTorch that look into a graph."""

import copy

import torch
from chains import nets
from torch import Tensor
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

from traps.subject import Setup, Subject, Tensors, Trial, named


def func_grad(subject: Subject) -> None:
    """torch.func.grad for the parameters."""

    def scenario(trial: Trial) -> Tensors:
        by_name = dict(trial.model.named_parameters())

        def loss(parameters: dict[str, Tensor]) -> Tensor:
            return trial.loss(functional_call(trial.model, parameters, (trial.x.detach(),)))

        values = {name: parameter.detach() for name, parameter in by_name.items()}
        found = torch.func.grad(loss)(values)
        by_identity = {id(parameter): found[name] for name, parameter in by_name.items()}
        return named("gradient", (by_identity[id(parameter)] for parameter in trial.parameters()))

    subject.agree(scenario)


def func_vmap(subject: Subject) -> None:
    """torch.func.vmap over batches."""

    def scenario(trial: Trial) -> Tensors:
        x = trial.x.detach()
        return {"outputs": torch.func.vmap(trial.model)(torch.stack((x, 2 * x, -x)))}

    subject.agree(scenario)


def func_jvp(subject: Subject) -> None:
    """torch.func.jvp, forward-mode differentiation."""

    def scenario(trial: Trial) -> Tensors:
        return named("result", torch.func.jvp(trial.model, (trial.x.detach(),), (trial.weights,)))

    subject.agree(scenario)


def inside_checkpoint(subject: Subject) -> None:
    """The chain within a segment of torch.utils.checkpoint."""

    def scenario(trial: Trial) -> Tensors:
        y = checkpoint(trial.model, trial.hidden(), use_reentrant=False)
        trial.loss(y).backward()
        return {"output": y, **trial.gradients()}

    subject.agree(scenario)


def save_on_cpu_hooks(subject: Subject) -> None:
    """Under torch.autograd.graph.save_on_cpu, hooks on saved tensors that are not the chain's own."""

    def scenario(trial: Trial) -> Tensors:
        with torch.autograd.graph.save_on_cpu():
            y = trial.model(trial.hidden().tanh())
        trial.loss(y.sin()).backward()
        return {"output": y, **trial.gradients()}

    subject.agree(scenario)


def deepcopy_after_step(subject: Subject) -> None:
    """A model that has been trained can be copied, and the copy trained."""

    def scenario(trial: Trial) -> Tensors:
        trial.step()
        copied = copy.deepcopy(trial.model)
        originals = {id(p): name for name, p in trial.model.named_parameters()}
        parameters = dict(copied.named_parameters())
        copied.zero_grad()
        trial.loss(copied(trial.hidden())).backward()
        grads = (parameters[originals[id(p)]].grad for p in trial.parameters())
        return named("gradient of the copy's parameter", grads)

    subject.agree(scenario, Setup(net=nets.batch_normalised_gelu))


ROWS = {
    f.__name__: f for f in (func_grad, func_vmap, func_jvp, inside_checkpoint, save_on_cpu_hooks, deepcopy_after_step)
}
