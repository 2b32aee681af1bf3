"""MRI reconstruction at equal seconds of training: zero-filled, least squares, total variation, U-Net, RIM, i-RIM.

python benchmarks/mri_reconstruction.py [--methods ...] [--seconds 300] [--seeds 1] [--size 64] [--coils 1]
                                        [--loss l1] [--masks 3] [--data FOLDER] [--save FOLDER] [--add]

k-space is SIMULATED from volumes that packages ship; nobody's head is in two splits: ch2, ch2bet (it without its
skull) and inia19 to train, kmeans-t1 to choose the weights of the classical methods, mni152 to test. Columns are
random as fastMRI draws them, 4-fold and 8-fold mixed in training, with a new mask for every slice and epoch. Every
model trains by Adam, cosine to zero over its time, gradients clipped at norm 1, one thread, for the same seconds of
processor time, by the L1 distance of magnitudes, for PSNR is what decides; U-Net and i-RIM by their last estimate, the
RIM by the mean over its steps, as its authors do. A volume is the slices across an axis; it is judged under several
masks. NMSE, PSNR and SSIM are fastMRI's; deviations are over volumes, masks and seeds.

With --save models are written to a folder, from which docs/figures/mri.py draws. With --add the new methods are merged
into the newest result on this machine.

Exit status 1: at 4 times the i-RIM's mean PSNR is not 4 dB above zero-filled, or below a RIM's.
"""

import json
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import _record
import torch
from torch import Tensor

import invertible as inv
from invertible.data.mri import MRIBatch, Simulation, SliceDataset, set_epoch, simulate_dataset, slice_loader
from invertible.image_metrics import ssim_loss
from invertible.models.irim import irim
from invertible.models.reconstructor import Reconstructor
from invertible.models.rim import rim
from invertible.models.unet import unet
from invertible.physics.baselines import Method, baseline
from invertible.physics.masks import RandomColumns
from invertible.reconstruction import reconstruct_volume

ACCELERATIONS, CENTRES = (4, 8), (0.08, 0.04)
BATCH, CLIP, JUDGED_SLICES = 4, 1.0, 40
WEIGHTS = {"total variation": ("tv", (3e-4, 1e-3, 3e-3, 1e-2)), "least squares": ("least-squares", (0.0, 1e-3, 1e-2))}
# The models and rates of the recipes unet-mri-small, rim-mri-small and irim-mri-small, and a RIM of more parameters.
MODELS: dict[str, tuple[Callable[[], Reconstructor], float]] = {
    "U-Net": (lambda: unet(channels=16, levels=3), 1e-3),
    "RIM": (lambda: rim(hidden=(16, 16), steps=8), 2e-3),
    "RIM, wider": (lambda: rim(hidden=(32, 32), steps=5), 2e-3),
    "i-RIM": (lambda: irim(channels=16, hidden=(16, 32, 64, 32, 16), factors=(1, 2, 4, 2, 1), steps=4), 2e-3),
}
METHODS = ("zero-filled", *WEIGHTS, *MODELS)
METRICS = ("nmse", "psnr", "ssim")


class Masks:
    """fastMRI's random columns at one acceleration, the number of a draw as part of the seed."""

    def __init__(self, acceleration: int, draw: int) -> None:
        self.columns = RandomColumns((CENTRES[ACCELERATIONS.index(acceleration)],), (acceleration,))
        self.draw = draw

    def __call__(self, columns: int, seed: int | str) -> Tensor:
        return self.columns(columns, f"{seed}-{self.draw}")


def simulated(folder: Path, size: int, coils: int) -> None:
    """Simulate the three subjects, if the folder is empty."""
    if not folder.is_dir() or not any(folder.iterdir()):
        simulate_dataset(folder, Simulation(size=size, coils=coils))


def magnitude_loss(name: str) -> Callable[[MRIBatch, Tensor], Tensor]:
    """A loss of magnitudes over the volume's maximum."""

    def loss(batch: MRIBatch, estimate: Tensor) -> Tensor:
        found = batch.magnitude(estimate)
        if name == "ssim":
            return ssim_loss(batch.target, found, batch.maximum)
        difference = (found - batch.target) / batch.maximum[:, None, None]
        return difference.abs().mean() if name == "l1" else difference.square().mean()

    return loss


def train(model: Reconstructor, lr: float, dataset: SliceDataset, seconds: float, seed: int, loss_name: str) -> int:
    """Train for so many seconds of processor time; the number of steps."""
    every, loss = model.config["model"] == "rim", magnitude_loss(loss_name)
    optimizer = torch.optim.Adam(model.parameters(), lr)
    loader = slice_loader(dataset, BATCH, shuffle=True, seed=seed, drop_last=True)
    model.train()
    start, steps, epoch = time.process_time(), 0, 0
    while True:
        set_epoch(loader, epoch)
        for batch in loader:
            spent = (time.process_time() - start) / seconds
            if spent >= 1:
                return steps
            for group in optimizer.param_groups:
                group["lr"] = lr * (1 + math.cos(math.pi * spent)) / 2
            optimizer.zero_grad(set_to_none=True)
            found = model.estimates(batch.observation) if every else [model(batch.observation)]
            total = torch.stack([loss(batch, each) for each in found]).mean()
            total.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
            optimizer.step()
            steps += 1
        epoch += 1


def judge(method: Method, folder: Path, acceleration: int, masks: int) -> list[dict]:
    """NMSE, PSNR and SSIM of every volume of a folder under every mask, over at most 40 slices in its middle."""
    found = []
    for path in sorted(folder.glob("*.h5")):
        count = inv.data.mri.read_header(path).slices
        first = max(0, (count - JUDGED_SLICES) // 2)
        for draw in range(masks):
            volume = reconstruct_volume(
                method, path, Masks(acceleration, draw), slices=(first, first + JUDGED_SLICES), batch_size=20
            )
            quality = {name: getattr(volume.quality, name) for name in METRICS}
            measured = int(volume.mask.sum())
            found.append({"volume": path.name, "mask": draw, "columns": measured, "seconds": volume.seconds, **quality})
    return found


def classical(name: str, data: Path, masks: int) -> dict:
    """A method without training; its weight, where it has one, is the best by PSNR on the validation subject."""
    found, chosen = {}, {}
    for acceleration in ACCELERATIONS:
        method = baseline("zero-filled")
        if name in WEIGHTS:
            kind, weights = WEIGHTS[name]
            scores = {w: mean(judge(baseline(kind, w), data / "validation", acceleration, 1), "psnr") for w in weights}
            chosen[f"{acceleration}x"] = {"weight": max(scores, key=scores.__getitem__), "psnr": scores}
            method = baseline(kind, chosen[f"{acceleration}x"]["weight"])
        found[f"{acceleration}x"] = judge(method, data / "test", acceleration, masks)
    return {"volumes": found, "weights": chosen}


def learned(name: str, data: Path, options) -> dict:
    """A model, trained once a seed."""
    build, lr = MODELS[name]
    volumes: dict[str, list[dict]] = {f"{acceleration}x": [] for acceleration in ACCELERATIONS}
    steps, size = [], 0
    maps = "file" if options.coils > 1 else "none"
    for seed in range(options.seeds):
        torch.manual_seed(seed)
        model = build()
        masks = RandomColumns(CENTRES, ACCELERATIONS)
        dataset = SliceDataset(data / "train", masks, random_masks=True, seed=seed, sensitivities=maps)
        steps.append(train(model, lr, dataset, options.seconds, seed, options.loss))
        size = sum(each.numel() for each in model.parameters())
        for acceleration in ACCELERATIONS:
            judged = judge(model.eval(), data / "test", acceleration, options.masks)
            volumes[f"{acceleration}x"] += [{"seed": seed, **each} for each in judged]
        if options.save is not None:
            inv.save(model, options.save / f"{name}-{seed}.safetensors", metadata={"simulated": "true"})
    return {"volumes": volumes, "steps": steps, "parameters": size, "seconds": options.seconds, "loss": options.loss}


def mean(rows: list[dict], metric: str) -> float:
    """Mean of a metric; infinite values stay."""
    return statistics.fmean(row[metric] for row in rows)


def tables(results: dict[str, dict]) -> str:
    """One table an acceleration: means, deviations over volumes, masks and seeds, and the gain over zero-filled."""
    parts = []
    for acceleration in (f"{each}x" for each in ACCELERATIONS):
        rows = []
        for name in sorted(results, key=METHODS.index):
            judged = results[name]["volumes"][acceleration]
            cells = [
                f"{mean(judged, metric):.{digits}f} ± {statistics.stdev(row[metric] for row in judged):.{digits}f}"
                for metric, digits in zip(METRICS, (4, 2, 3), strict=True)
            ]
            start = results.get("zero-filled")
            gain = mean(judged, "psnr") - mean(start["volumes"][acceleration], "psnr") if start else math.nan
            steps = results[name].get("steps")
            trained = [round(statistics.mean(steps)), f"{results[name]['parameters']:,}"] if steps else ["", ""]
            rows.append([name, *cells, f"{gain:+.2f}", *trained, f"{1000 * per_slice(judged):.1f}"])
        head = ["", "NMSE", "PSNR, dB", "SSIM", "above zero-filled, dB", "steps", "parameters", "ms a slice"]
        parts.append(f"{acceleration}, SIMULATED k-space:\n\n{_record.table(head, rows)}")
    return "\n\n".join([*parts, weights_text(results)]).rstrip()


def per_slice(judged: list[dict]) -> float:
    """Seconds a slice, the median over volumes."""
    return statistics.median(row["seconds"] for row in judged) / JUDGED_SLICES


def weights_text(results: dict[str, dict]) -> str:
    """The weights that were chosen on the validation subject."""
    chosen = [
        f"{name} {each['weight']:g} at {factor}"
        for name, found in results.items()
        for factor, each in found.get("weights", {}).items()
    ]
    return f"Weights, chosen on the validation subject: {', '.join(chosen)}." if chosen else ""


def verdict(results: dict[str, dict]) -> list[str]:
    """What the i-RIM falls short of at 4 times."""
    if not {"i-RIM", "zero-filled"} <= results.keys():
        return []
    found = {name: mean(each["volumes"]["4x"], "psnr") for name, each in results.items()}
    failed = []
    if not found["i-RIM"] >= found["zero-filled"] + 4:
        failed.append(f"i-RIM is {found['i-RIM'] - found['zero-filled']:.2f} dB above zero-filled at 4x, not 4")
    for name in ("RIM", "RIM, wider"):
        if name in found and not found["i-RIM"] >= found[name]:
            failed.append(f"i-RIM is {found[name] - found['i-RIM']:.2f} dB below {name} at 4x")
    return failed


def earlier(out: Path) -> dict:
    """The newest result on this machine."""
    files = sorted(out.glob(f"mri-reconstruction_{_record.machine()}_*.json"))
    return json.loads(files[-1].read_text()) if files else {}


def main() -> int:
    parser = _record.parser(__doc__)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--seconds", type=float, default=300.0, help="of processor time, to train each model")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--coils", type=int, default=1)
    parser.add_argument("--loss", choices=("ssim", "l1", "mse"), default="l1")
    parser.add_argument("--masks", type=int, default=3, help="masks a volume of the test")
    parser.add_argument(
        "--data", type=Path, help="folder of the simulated k-space; kept, and used again if it is there"
    )
    parser.add_argument("--save", type=Path, help="folder for the models")
    parser.add_argument("--add", action="store_true", help="merge into the newest result on this machine")
    options = parser.parse_args()
    torch.set_num_threads(1)
    results: dict[str, dict] = earlier(options.out).get("results", {}) if options.add else {}
    with tempfile.TemporaryDirectory() as temporary:
        data = options.data or Path(temporary) / "simulated"
        simulated(data, options.size, options.coils)
        for name in options.methods:
            results[name] = learned(name, data, options) if name in MODELS else classical(name, data, options.masks)
            record = {
                "environment": _record.environment("invertible", "h5py", "nibabel", "nilearn"),
                "simulated": True,
                "size": options.size,
                "coils": options.coils,
                "results": results,
            }
            title = f"MRI reconstruction, SIMULATED k-space of {options.size} x {options.size}, {options.seconds:g} s"
            _record.write(options.out, "mri-reconstruction", title, tables(results), record)
    failed = verdict(results)
    for each in failed:
        print(f"FAILED: {each}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
