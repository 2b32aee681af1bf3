"""The reproductions by name, in the order in which they are told."""

from invertible.reproduce.checkerboard import Checkerboard
from invertible.reproduce.experiment import Experiment
from invertible.reproduce.exploding_reconstruction import ExplodingReconstruction
from invertible.reproduce.gradient_angle import GradientAngle
from invertible.reproduce.invertibility_attack import InvertibilityAttack
from invertible.reproduce.irim_layer import IRIMLayer
from invertible.reproduce.lipschitz_table import LipschitzTable
from invertible.reproduce.memory_table import MemoryTable
from invertible.reproduce.nf_objective import NFObjective
from invertible.reproduce.no_information_loss import NoInformationLoss
from invertible.reproduce.ood_reconstruction import OODReconstruction
from invertible.reproduce.regression_2d import Regression2D
from invertible.reproduce.residual_vs_coupling import ResidualVsCoupling
from invertible.reproduce.resnet_vs_revnet import ResNetVsRevNet

EXPERIMENTS: dict[str, Experiment] = {
    each.name: each
    for each in (
        ResidualVsCoupling(),
        MemoryTable(),
        ResNetVsRevNet(),
        IRIMLayer(),
        NoInformationLoss(),
        ExplodingReconstruction(),
        GradientAngle(),
        LipschitzTable(),
        NFObjective(),
        OODReconstruction(),
        InvertibilityAttack(),
        Regression2D(),
        Checkerboard(),
    )
}
