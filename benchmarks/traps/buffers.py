"""Buffers that a forward pass advances: once, however often it is run."""

from chains import nets
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm as normalise

from traps.subject import Setup, Subject, Tensors, Trial, named


def _step_with_buffers(trial: Trial) -> Tensors:
    result = trial.step()
    return result | named("buffer", (buffer for net in trial.modules() for buffer in net.buffers()))


def _spectral(inputs: int, outputs: int) -> nn.Module:
    net = nets.smooth(inputs, outputs)
    return nn.Sequential(*(normalise(layer) if isinstance(layer, nn.Conv2d) else layer for layer in net))


def spectral_norm(subject: Subject) -> None:
    """Vectors of the power iteration advance once; gradients are those of the weights that were used."""
    subject.agree(_step_with_buffers, Setup(net=_spectral))


def bn_running_stats(subject: Subject) -> None:
    """Running statistics of batch norm are updated once."""
    subject.agree(_step_with_buffers, Setup(net=nets.batch_normalised_gelu))


ROWS = {f.__name__: f for f in (spectral_norm, bn_running_stats)}
