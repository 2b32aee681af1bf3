"""Small models and data whose representations are known."""

import torch
from torch import nn

from invertible.bijection import Bijection
from invertible.classifier import Classifier
from invertible.models import irevnet, revnet
from invertible.representations import Labelled
from invertible.sequential import Sequential


class Stretch(Bijection):
    """y = s x, a factor for each feature."""

    def __init__(self, *factors):
        super().__init__()
        self.factors = nn.Parameter(torch.tensor(factors))

    def forward(self, x, condition=None):
        return x * self.factors, self.factors.abs().log().sum().expand(len(x))

    def inverse(self, y, condition=None):
        return y / self.factors, -self.factors.abs().log().sum().expand(len(y))


class Apart(Bijection):
    """Moves what has two first values of one sign away along the third one; volume preserving."""

    def forward(self, x, condition=None):
        return torch.cat((x[:, :2], x[:, 2:] + self._step(x)), 1), x.new_zeros(len(x))

    def inverse(self, y, condition=None):
        return torch.cat((y[:, :2], y[:, 2:] - self._step(y)), 1), y.new_zeros(len(y))

    def _step(self, x):
        return torch.where(x[:, :1] * x[:, 1:2] > 0, 50.0, 0.0)


class Coarse(Bijection):
    """y = x, whose inverse is off by a relative error."""

    def __init__(self, error=1e-3):
        super().__init__()
        self.error = error

    def forward(self, x, condition=None):
        return x, x.new_zeros(len(x))

    def inverse(self, y, condition=None):
        return y * (1 + self.error), y.new_zeros(len(y))


def interleaved(count, seed):
    """Two classes that no line separates: whether the first two of three values have one sign."""
    x = torch.randn(count, 3, generator=torch.Generator().manual_seed(seed))
    return Labelled(x, (x[:, 0] * x[:, 1] > 0).long())


def images(count, shape=(1, 8, 8), classes=3, levels=17):
    """Integer images whose classes differ in the brightness of a corner."""
    y = torch.arange(count) % classes
    x = torch.randint(0, 6, (count, *shape))
    x[:, :, :4, :4] += 5 * y[:, None, None, None]
    return Labelled(x.to(torch.uint8), y)


def bijective(**options):
    stages = {"blocks": (2, 2), "channels": (2, 8), "strides": (1, 2), "hidden": (8, 8)}
    return settled(irevnet(shape=(1, 8, 8), squeeze=2, classes=3, grey_levels=17, **stages, **options))


def injective():
    stages = {"blocks": (2, 2), "channels": (8, 32), "strides": (1, 2)}
    return settled(irevnet(shape=(1, 8, 8), classes=3, grey_levels=17, kernels=(3, 3, 3), **stages))


def lossy():
    return settled(revnet(units=(1, 2), filters=(8, 8, 16), shape=(1, 8, 8), classes=3, grey_levels=17))


def settled(model):
    """Batch statistics of some images, eval mode."""
    model.train()
    with torch.no_grad():
        for _ in range(3):
            model(images(32).x)
    return model.eval()


def linear_classifier(shape=(1, 2, 2)):
    """Features are the pixels."""
    body = Sequential(Stretch(*[2.0] * shape[-1]))
    head = nn.Sequential(nn.Flatten(), nn.Linear(shape[0] * shape[1] * shape[2], 2))
    return Classifier(body, head, shape=shape, classes=2).eval()
