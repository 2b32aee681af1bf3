"""A model as it is scored: in eval mode, and showing what is not finite in place of an error."""

from collections.abc import Iterator
from contextlib import contextmanager

from invertible.models import AnyModel


@contextmanager
def scoring(model: AnyModel) -> Iterator[None]:
    """Within it the model is in eval mode and does not validate; afterwards every module is as it was."""
    modes, validate = {module: module.training for module in model.modules()}, model.validate
    model.eval()
    model.validate = False
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
        model.validate = validate
