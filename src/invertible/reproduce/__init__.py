"""Figures and tables of the papers, made again: each trains what it needs, draws, and judges the paper's claims."""

from invertible.reproduce.experiment import Claim, Experiment, Found, Measurement, Run, Table
from invertible.reproduce.outcome import Outcome, judge, write
from invertible.reproduce.registry import EXPERIMENTS
from invertible.reproduce.results import Results
from invertible.reproduce.work import RunFailedError, Task, measure_all

__all__ = [
    "EXPERIMENTS",
    "Claim",
    "Experiment",
    "Found",
    "Measurement",
    "Outcome",
    "Results",
    "Run",
    "RunFailedError",
    "Table",
    "Task",
    "judge",
    "measure_all",
    "write",
]
