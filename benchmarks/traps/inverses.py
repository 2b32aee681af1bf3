"""Inverses that lose digits: gradients from rebuilt states, against stored ones in float64."""

from dataclasses import replace

import torch
from chains import nets

from traps.subject import Setup, Subject, Tensors, Trial, WrongError, largest_error

# What a single tensor's gradient may be off by, unless stored activations in float32 do little better.
ALLOWED, TIMES_STORED = 1e-2, 10


def affine_exact(subject: Subject) -> None:
    """Affine blocks in float64."""
    subject.agree(Trial.step, Setup(log_scale=nets.LogScale(0.5)))


def _gradients(trial: Trial) -> Tensors:
    trial.step()
    return trial.gradients()


def _explode(subject: Subject, setup: Setup) -> None:
    single = replace(setup, dtype=torch.float32)
    trial = subject.trial(single)
    true = _gradients(subject.true(setup))
    stored = largest_error(_gradients(subject.true(single)), true)[1]
    name, error = largest_error(_gradients(trial), true)
    if not error <= max(ALLOWED, TIMES_STORED * stored):
        raise WrongError(f"{name}: off by {error:.1e}, stored activations by {stored:.1e}")


def explode_additive(subject: Subject) -> None:
    """Additive blocks with large weights: rounding grows both ways."""

    def amplify(pairs: nets.Pairs) -> nets.Pairs:
        for parameter in nets.parameters(pairs):
            parameter.data.mul_(3)
        return pairs

    _explode(subject, Setup(blocks=32, prepare=amplify))


def _explode_affine(subject: Subject, blocks: int, slope: float, shift: float) -> None:
    net = nets.batch_normalised_gelu
    _explode(subject, Setup(net=net, blocks=blocks, log_scale=nets.LogScale(slope, shift)))


def explode_affine_shrink(subject: Subject) -> None:
    """Affine blocks that shrink by about e⁻², so that the input drowns in the rounding of what is added."""
    _explode_affine(subject, 16, 1.0, -2.0)


def explode_affine_grow(subject: Subject) -> None:
    """Affine blocks that grow by about e."""
    _explode_affine(subject, 16, 1.0, 1.0)


def explode_affine_mild(subject: Subject) -> None:
    """Affine blocks as one finds them, many of them: log s = 0.7 tanh."""
    _explode_affine(subject, 64, 0.7, 0.0)


ROWS = {
    f.__name__: f
    for f in (affine_exact, explode_additive, explode_affine_shrink, explode_affine_grow, explode_affine_mild)
}
