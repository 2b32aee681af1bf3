"""A model as it is scored: in eval mode, and showing what is not finite in place of an error."""

from collections.abc import Iterator
from contextlib import contextmanager

from invertible.models import AnyModel
from invertible.modes import eval_mode


@contextmanager
def scoring(model: AnyModel) -> Iterator[None]:
    """Within it the model is in eval mode and does not validate; afterwards every module is as it was."""
    validate = model.validate
    model.validate = False
    try:
        with eval_mode(model):
            yield
    finally:
        model.validate = validate
