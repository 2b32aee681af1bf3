"""Parameters that weight decay acts on, and those that it leaves alone."""

from collections.abc import Iterable

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd


def parameter_groups(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Weights of convolutions and linear layers, and all other parameters, each in the model's order.

    The others are biases, and scales and shifts of normalisation: shrinking those does not simplify what a network
    computes. Of a parametrised weight (`torch.nn.utils.parametrize`) the parameters behind it count.
    """
    weights = {
        id(weight)
        for module in model.modules()
        if isinstance(module, nn.Linear | _ConvNd)
        for weight in _weights(module)
    }
    parameters = list(model.parameters())
    decayed = [each for each in parameters if id(each) in weights]
    return decayed, [each for each in parameters if id(each) not in weights]


def _weights(module: nn.Linear | _ConvNd) -> Iterable[Tensor]:
    hidden = getattr(module, "parametrizations", {})
    return hidden["weight"].parameters() if "weight" in hidden else [module.weight]
