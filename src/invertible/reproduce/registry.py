"""The reproductions by name, in the order in which they are told."""

from invertible.reproduce.experiment import Experiment
from invertible.reproduce.regression_2d import Regression2D

EXPERIMENTS: dict[str, Experiment] = {each.name: each for each in (Regression2D(),)}
