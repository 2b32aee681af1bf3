"""Small instances of every model, for the tests that run over all of them."""

from collections.abc import Callable

import torch
from torch import Tensor

from invertible import Flow, models

MODELS: dict[str, Callable[[], Flow]] = {
    "nice": lambda: models.nice(6, hidden=(16, 16)),
    "nice-images": lambda: models.nice((1, 4, 4), hidden=(16,), grey_levels=17, base="normal"),
    "nice-classes": lambda: models.nice(6, hidden=(16,), classes=3),
    "realnvp": lambda: models.realnvp(6, layers=4, hidden=(16, 16)),
    "realnvp-odd": lambda: models.realnvp(5, layers=4, hidden=(16,), actnorm=False),
    "realnvp-spline": lambda: models.realnvp(6, layers=3, hidden=(16,), coupling="spline"),
    "realnvp-additive": lambda: models.realnvp(6, layers=3, hidden=(16,), coupling="additive"),
    "realnvp-conditional": lambda: models.realnvp(6, layers=3, hidden=(16,), condition_features=2),
    "realnvp-images": lambda: models.realnvp((2, 8, 8), hidden=(8,), residual_blocks=1, grey_levels=256),
    "glow": lambda: models.glow((1, 8, 8), levels=2, depth=2, hidden=8, grey_levels=17),
    "glow-sigmoid": lambda: models.glow((1, 8, 8), levels=2, depth=2, hidden=8, scale="sigmoid"),
    "glow-additive": lambda: models.glow((2, 4, 4), levels=2, depth=2, hidden=8, coupling="additive"),
    "glow-spline": lambda: models.glow((1, 4, 4), levels=1, depth=2, hidden=8, coupling="spline"),
    "glow-shuffle": lambda: models.glow((1, 4, 4), levels=2, depth=1, hidden=8, permutation="shuffle"),
    "glow-reverse": lambda: models.glow(
        (1, 4, 4), levels=2, depth=1, hidden=8, permutation="reverse", learned_prior=False
    ),
    "glow-orthogonal": lambda: models.glow((1, 4, 4), levels=2, depth=1, hidden=8, parametrization="orthogonal"),
    "glow-free": lambda: models.glow((1, 4, 4), levels=2, depth=1, hidden=8, parametrization="free"),
    "glow-classes": lambda: models.glow((1, 4, 4), levels=2, depth=1, hidden=8, classes=3),
    "residual-flow": lambda: models.residual_flow(4, blocks=2, hidden=(8, 8), log_det="exact"),
    "residual-flow-images": lambda: models.residual_flow(
        (1, 4, 4), levels=2, blocks=1, hidden=(6, 6), fully_connected=1, log_det="exact", grey_levels=17
    ),
    "glow-conditional": lambda: models.glow((1, 8, 8), levels=2, depth=1, hidden=8, condition_features=2),
}


def data_for(flow: Flow, dtype: torch.dtype, samples: int = 16) -> tuple[Tensor, Tensor | None]:
    """Random data in [0, 1] and a random condition that fit the model."""
    assert flow.config is not None
    shape = flow.config["arguments"]["shape"]
    sizes = (shape,) if isinstance(shape, int) else tuple(shape)
    x = torch.rand(samples, *sizes, dtype=dtype)
    if flow.classes is not None:
        return x, torch.randint(flow.classes, (samples,))
    if flow.condition_features:
        return x, torch.randn(samples, flow.condition_features, dtype=dtype)
    return x, None
