"""Seeds that depend on the step alone, so that order of data and noise need not be stored to be repeated."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def seed_for(*parts: int | str) -> int:
    """A seed in 0 .. 2^63 - 1 that depends on every part: equal parts give equal seeds on every machine."""
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def generator_for(device: torch.device | str, *parts: int | str) -> torch.Generator:
    """A generator on `device` seeded by `seed_for(*parts)`."""
    return torch.Generator(device=device).manual_seed(seed_for(*parts))


@contextmanager
def drawing_from(device: torch.device, *parts: int | str) -> Iterator[None]:
    """Within it torch draws from the seed `seed_for(*parts)`; afterwards its generators are where they were."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed_for(*parts))
        yield
