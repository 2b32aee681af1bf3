"""An experiment of milliseconds, which processes can import."""

import math
import os

import torch

from invertible.errors import ConfigError
from invertible.reproduce.experiment import Claim, Experiment, Measurement, Run, Table
from invertible.reproduce.figures import new_figure


class Squares(Experiment):
    """x^2 of a few x; some runs fail on purpose."""

    name = "squares"
    title = "Squares grow."
    source = "nobody 2026"

    def __init__(self, values=(1.0, 2.0, math.inf), failing=None, *, holds=True):
        self.values, self.failing, self.expected = values, failing, holds

    def departures(self, scale):
        return () if scale == "full" else ("smaller numbers",)

    def runs(self, scale, seed):
        return [Run(f"x = {value}", {"x": str(value), "seed": seed, "scale": scale}) for value in self.values]

    def measure(self, config, device, progress):
        progress(0.5)
        x = float(config["x"])
        if self.failing == "refuse":
            raise ConfigError("squares: expected another x.")
        if self.failing == "break":
            raise ZeroDivisionError("no such thing")
        if self.failing == "die" and x == self.values[-1]:
            os._exit(9)
        progress(1.0)
        drawn = torch.rand(3)
        return Measurement({"square": x * x, "drawn": drawn.tolist(), "list": [math.nan, 1]}, {"curve": drawn})

    def claims(self, found):
        largest = max(each.numbers["square"] for each in found)
        return [Claim("They grow <fast>.", self.expected, f"{largest}", "at least 1", "They are small.")]

    def tables(self, found):
        return [Table("squares", ["x", "square"], [[each.config["x"], str(each.numbers["square"])] for each in found])]

    def figures(self, found):
        figure = new_figure(3, 2)
        figure.subplots().plot(found[0].arrays["curve"].tolist())
        return {"squares": figure}
