"""Data of a flow, as a run asks for them."""

from invertible.data import DataSet
from invertible.errors import ConfigError
from invertible.training.in_memory import InMemory
from invertible.training.recipe import Recipe


class FlowData(InMemory):
    """Samples of a data set held in memory, with their labels where the flow is conditioned on them.

    Args:
        data: the data set.
        recipe: its sections data, training and conditions.

    Raises:
        ConfigError: if the recipe asks for labels of a data set that has none.
    """

    def __init__(self, data: DataSet, recipe: Recipe) -> None:
        if recipe.conditions.labels and (data.train.y is None or data.classes is None):
            raise ConfigError(
                f"conditions.labels: expected a data set with labels, got {data.name}, which has none. Set it to false."
            )
        super().__init__(data, recipe, labels=recipe.conditions.labels)
