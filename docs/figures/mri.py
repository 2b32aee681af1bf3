"""Draws docs/images/mri.png: reconstructions of the test subject, SIMULATED k-space, by the models of the benchmark.

python benchmarks/mri_reconstruction.py --data simulated --save models
python docs/figures/mri.py [--data simulated] [--models models] [--seed 0] [--out docs/images/mri.png]

Models that are not in the folder are left out.
"""

import argparse
import sys
from pathlib import Path

import torch

import invertible as inv
from invertible.image_metrics import Quality
from invertible.physics.baselines import baseline
from invertible.reconstruction import reconstruct_volume
from invertible.reports.reconstruction_panels import Panel, reconstruction_panels
from invertible.reports.representation_style import png

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

from mri_reconstruction import Masks  # noqa: E402

LEARNED = ("U-Net", "RIM", "i-RIM")
SHOWN = (("mni152-axial.h5", 4, 0.55), ("mni152-sagittal.h5", 8, 0.5))


def panel(path: Path, acceleration: int, place: float, methods: dict) -> Panel:
    """One slice, at a place between the first and the last, by all methods."""
    count = inv.data.mri.read_header(path).slices
    index = int(place * count)
    mask = Masks(acceleration, 0)
    found = {name: reconstruct_volume(each, path, mask, slices=(index, index + 1)) for name, each in methods.items()}
    first = next(iter(found.values()))
    notes = {}
    for name, volume in found.items():
        quality = Quality.of(volume.target, volume.images, volume.maximum)
        notes[name] = f"{quality.psnr:.1f} dB, SSIM {quality.ssim:.3f}"
    return Panel(
        title=f"{path.stem}, {acceleration}×",
        estimates={name: volume.images[0] for name, volume in found.items()},
        truth=first.target[0],
        mask=first.mask,
        maximum=first.maximum,
        notes=notes,
        simulated=first.header.simulated,
    )


def main() -> None:
    """Load, reconstruct, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("simulated"))
    parser.add_argument("--models", type=Path, default=Path("models"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "images" / "mri.png")
    options = parser.parse_args()
    torch.set_num_threads(1)
    methods = {"zero-filled": baseline("zero-filled"), "total variation": baseline("tv")}
    files = {name: options.models / f"{name}-{options.seed}.safetensors" for name in LEARNED}
    methods |= {name: inv.load(file) for name, file in files.items() if file.is_file()}
    panels = [panel(options.data / "test" / name, factor, place, methods) for name, factor, place in SHOWN]
    caption = "a subject that no model has seen; PSNR and SSIM of the slice"
    options.out.write_bytes(png(reconstruction_panels(panels, caption=caption)))


if __name__ == "__main__":
    main()
