"""`invertible reconstruct`: images from undersampled k-space."""

import typer

from invertible.cli.options import command
from invertible.cli.reconstruction_options import ReconstructOptions
from invertible.errors import require


@command(ReconstructOptions)
def reconstruct(options: ReconstructOptions) -> None:
    """Reconstruct volumes of fastMRI's format with a trained i-RIM, RIM or U-Net, or a classical method.

    Where a file has a target, NMSE, PSNR and SSIM stand beside those of the zero-filled image. The exit status is 1 if
    a volume had to be left out; the others are reconstructed then.
    """
    require("h5py", "mri")
    if options.png is not None:
        require("matplotlib", "report")
    from invertible.cli.output import console
    from invertible.cli.reconstruction import chosen_mask, chosen_method, reconstruct_all
    from invertible.cli.reconstruction_output import report, write_json, write_panels
    from invertible.cli.reconstruction_plan import plan

    mask = chosen_mask(options)
    source, method = chosen_method(options)
    work = plan(source, method.run, options)
    done = reconstruct_all(work, method, mask, options)
    out, screen = console(), console(stderr=True)
    if done:
        report(done, method.name, out)
        out.print(f"reconstructions: {options.out}", soft_wrap=True)
    for name, reason in work.problems.items():
        screen.print(f"left out {name}: {reason}", soft_wrap=True)
    if options.png is not None and done:
        write_panels(options.png, done, method.name)
        out.print(f"panels: {options.png}", soft_wrap=True)
    if options.json_path is not None:
        write_json(options.json_path, done, work.problems, method)
    if work.problems:
        raise typer.Exit(1)
