"""A chain amid other layers, which use its input and its intermediate states too."""

import torch
from chains import nets
from torch import Tensor, nn

from traps.subject import Setup, Subject, Tensors, Trial, WrongError


def tap_intermediate(subject: Subject) -> None:
    """A forward hook on the first of two chains stores its output, which the loss uses too."""

    def scenario(trial: Trial) -> Tensors:
        first, second = trial.build(trial.pairs[:1]), trial.build(trial.pairs[1:])
        tapped = []
        first.register_forward_hook(lambda _module, _inputs, output: tapped.append(output))
        y = nn.Sequential(first, second)(trial.hidden())
        (trial.loss(y) + tapped[0].square().sum()).backward()
        return {"output": y, **trial.gradients()}

    subject.agree(scenario)


def tap_inner_net(subject: Subject) -> None:
    """Forward hooks on the inner networks store what they return, by network, and the loss uses it."""

    def scenario(trial: Trial) -> Tensors:
        tapped: dict[int, Tensor] = {}
        for index, net in enumerate(trial.modules()):
            net.register_forward_hook(lambda _module, _inputs, output, at=index: tapped.update({at: output}))
        y = trial.model(trial.hidden())
        (trial.loss(y) + sum(output.square().sum() for output in tapped.values())).backward()
        return {"output": y, **trial.gradients()}

    subject.agree(scenario)


def fg_forward_hooks(subject: Subject) -> None:
    """Forward hooks on inner networks act: here, they halve what the network returns."""

    def scenario(trial: Trial) -> Tensors:
        for net in trial.modules():
            net.register_forward_hook(lambda _module, _inputs, output: output / 2)
        return trial.step()

    subject.agree(scenario)


def skip_around(subject: Subject) -> None:
    """A skip connection around the chain uses its input once more."""

    def scenario(trial: Trial) -> Tensors:
        hidden = trial.hidden()
        y = trial.model(hidden) * hidden + hidden
        trial.loss(y).backward()
        return {"output": y, **trial.gradients()}

    subject.agree(scenario)


def relu_before(subject: Subject) -> None:
    """The layer before needs its output, which is the chain's input, for its own gradient."""

    def scenario(trial: Trial) -> Tensors:
        y = trial.model(torch.relu(trial.hidden()))
        trial.loss(y).backward()
        return {"output": y, **trial.gradients()}

    subject.agree(scenario)


def _check_untouched(tensor: Tensor, values: Tensor, when: str) -> None:
    # Looked at first: reading memory that was freed under a tensor ends the process.
    if tensor.untyped_storage().nbytes() < values.numel() * values.element_size():
        raise WrongError(f"the caller's tensor has lost its memory after the {when} pass")
    if not torch.equal(tensor, values):
        raise WrongError(f"the caller's tensor has changed after the {when} pass")


def caller_input_intact(subject: Subject) -> None:
    """The tensor given to the chain is the caller's, during the step and after it."""

    def scenario(trial: Trial) -> Tensors:
        hidden = trial.hidden()
        values = hidden.detach().clone()
        y = trial.model(hidden)
        _check_untouched(hidden.detach(), values, "forward")
        trial.loss(y).backward()
        _check_untouched(hidden.detach(), values, "backward")
        return trial.gradients()

    subject.agree(scenario)


def caller_batch_view(subject: Subject) -> None:
    """The chain is given half of a batch; the other half is the caller's too."""

    def scenario(trial: Trial) -> Tensors:
        batch = torch.cat((trial.hidden(), trial.hidden()))
        values = batch.detach().clone()
        y = trial.model(batch[: len(trial.x)])
        _check_untouched(batch.detach(), values, "forward")
        trial.loss(y).backward()
        _check_untouched(batch.detach(), values, "backward")
        return trial.gradients()

    subject.agree(scenario)


def eval_no_grad(subject: Subject) -> None:
    """Evaluation without grad: the same output, and the caller's batch survives it."""

    def scenario(trial: Trial) -> Tensors:
        trial.model.eval()
        hidden = trial.hidden().detach()
        values = hidden.clone()
        with torch.no_grad():
            y = trial.model(hidden)
        _check_untouched(hidden, values, "forward")
        return {"output": y}

    subject.agree(scenario, Setup(net=nets.batch_normalised_gelu))


ROWS = {
    f.__name__: f
    for f in (
        tap_intermediate,
        tap_inner_net,
        skip_around,
        relu_before,
        caller_input_intact,
        caller_batch_view,
        eval_no_grad,
        fg_forward_hooks,
    )
}
