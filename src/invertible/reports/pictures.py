"""Samples beside what came back for them, as small pictures inside a page."""

import base64
from dataclasses import dataclass
from io import BytesIO

import torch
from torch import Tensor

from invertible.errors import require
from invertible.stability.records import ADVERSARIAL, FAILED, AuditRecord, SetRecord

# Magenta occurs in no colour map of this page: it marks what is not finite.
BROKEN = (1.0, 0.0, 0.85)
DARKEST, BRIGHTEST = -7.0, 0.0
STRIPS, COLUMNS = 6, 3


@dataclass(frozen=True)
class Picture:
    """One sample: the picture sent, the picture that came back, and the difference, as PNG data addresses.

    Attributes:
        sample: its index in the set.
        start: what was sent.
        back: what came back; what is not finite is magenta.
        difference: log10 |x' - x| from black (1e-7 or less) to white (1 or more).
        broken: number of pixels that are not finite.
        largest: largest difference of the finite ones.
        origin: what the picture sent was made from; empty if it was not.
    """

    sample: int
    start: str
    back: str
    difference: str
    broken: int
    largest: float
    origin: str = ""


@dataclass(frozen=True)
class Strip:
    """The worst pictures of one set."""

    name: str
    failed: bool
    pictures: tuple[Picture, ...]

    @property
    def has_origins(self) -> bool:
        """Whether the pictures sent were made from others."""
        return any(picture.origin for picture in self.pictures)


def picture_strips(record: AuditRecord) -> tuple[Strip, ...]:
    """The worst pictures of the sets that deserve a look: test data, attacked ones, failures, others.

    Raises:
        MissingDependencyError: if matplotlib is not installed.
    """
    with_pictures = [one for one in record.sets if one.examples is not None and one.examples.start.dim() == 4]
    with_pictures.sort(key=lambda one: (one.name != "test", one.kind != ADVERSARIAL, one.status != FAILED))
    return tuple(Strip(one.name, one.status == FAILED, _pictures(one)) for one in with_pictures[:STRIPS])


def _pictures(one: SetRecord) -> tuple[Picture, ...]:
    if one.examples is None:
        return ()
    found = one.examples
    origins = [None] * len(found.start) if found.origin is None else found.origin
    rows = zip(found.samples, found.start, found.back, origins, strict=True)
    return tuple(_picture(*row) for row in list(rows)[:COLUMNS])


def _picture(sample: int, start: Tensor, back: Tensor, origin: Tensor | None) -> Picture:
    low, high = start.aminmax()
    low, high = min(float(low), 0.0), max(float(high), 1.0)
    difference = (back.double() - start.double()).abs()
    finite = difference[difference.isfinite()]
    broken = ~back.isfinite()
    # The largest over channels: a pixel is as bad as its worst channel.
    log = difference.nan_to_num(nan=0.0, posinf=0.0).amax(0).clamp(10**DARKEST, 10**BRIGHTEST).log10()
    heat = require("matplotlib", "report").colormaps["inferno"](((log - DARKEST) / (BRIGHTEST - DARKEST)).numpy())
    return Picture(
        sample,
        _png(_coloured((start - low) / (high - low)), None),
        _png(_coloured((back - low) / (high - low)), broken.any(0)),
        _png(torch.from_numpy(heat)[..., :3], broken.any(0)),
        int(broken.any(0).sum()),
        float(finite.max()) if len(finite) else float("inf"),
        "" if origin is None else _png(_coloured((origin - low) / (high - low)), None),
    )


def _coloured(image: Tensor) -> Tensor:
    """(C, H, W) to (H, W, 3): three channels as colours, others by their first."""
    image = image.double().nan_to_num(nan=0.0).clamp(0, 1)
    return (image if len(image) == 3 else image[:1].expand(3, -1, -1)).permute(1, 2, 0)


def _png(image: Tensor, broken: Tensor | None) -> str:
    image = image.clone()
    if broken is not None:
        image[broken] = image.new_tensor(BROKEN)
    buffer = BytesIO()
    require("matplotlib.image", "report").imsave(buffer, image.numpy(), format="png", metadata={"Software": None})
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
