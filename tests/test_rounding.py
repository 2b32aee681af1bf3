"""What is said of a GPU that rounds products; its switches can be read and set without one."""

import pytest
import torch

from invertible import rounding
from invertible.rounding import rounds_to_tf32, tf32_hint

CONVOLUTIONS, PRODUCTS = "torch.backends.cudnn.allow_tf32", "torch.backends.cuda.matmul.allow_tf32"


@pytest.fixture
def switched():
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.allow_tf32, matmul.allow_tf32

    def switch(convolutions, products):
        cudnn.allow_tf32, matmul.allow_tf32 = convolutions, products

    yield switch
    switch(*before)


@pytest.mark.parametrize("on", [(True, False), (False, True), (True, True), (False, False)])
def test_the_switches_that_are_on_are_named(switched, on) -> None:
    switched(*on)
    assert rounds_to_tf32("cpu", convolutions=True) == ()
    named = tuple(name for name, each in zip((CONVOLUTIONS, PRODUCTS), on, strict=True) if each)
    assert rounds_to_tf32("cuda:1", convolutions=True) == named
    assert rounds_to_tf32("cuda:1", convolutions=False) == named[on[0] :]


def test_only_float32_tensors_lose_digits(monkeypatch) -> None:
    monkeypatch.setattr(rounding, "rounds_to_tf32", lambda device, convolutions: (CONVOLUTIONS,) * convolutions)
    vectors, images = torch.zeros(1, 1), torch.zeros(1, 1, 1, 1)
    assert f"{CONVOLUTIONS} = False" in tf32_hint([images.double(), images])
    assert tf32_hint([vectors]) == ""
    assert tf32_hint([images.double()]) == ""
    assert tf32_hint([]) == ""
