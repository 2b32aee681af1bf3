"""This library, through its public interface."""

from invertible import models
from peers.model import CHANNELS, DEPTH, FEATURES, HIDDEN, LAYERS, LEVELS, SHAPE, Model


def _model(flow, note):
    note = "log_det in the inverse too; input and result checked for finiteness; " + note
    return Model(flow, flow.log_prob, flow.encode, flow.decode, note)


def realnvp(layers=LAYERS):
    flow = models.realnvp(FEATURES, layers=layers, hidden=(HIDDEN, HIDDEN), actnorm=False, permutation="alternate")
    return _model(flow, "scale in (1/2, 2)")


def spline():
    flow = models.realnvp(
        FEATURES, layers=LAYERS, coupling="spline", hidden=(HIDDEN, HIDDEN), actnorm=False, permutation="alternate"
    )
    return _model(flow, "derivatives at the knots bounded above too")


def glow():
    options = {"learned_prior": False, "grey_levels": None}
    flow = models.glow(SHAPE, levels=LEVELS, depth=DEPTH, hidden=CHANNELS, **options)
    return _model(flow, "data-dependent ActNorm; scale in (1/2, 1); latents keep the image's shape")
