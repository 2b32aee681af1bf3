"""What does `import invertible` cost beside `import torch`?

python benchmarks/import_time.py [--rounds 15]

Each import runs in a fresh process, in turn; CPU time of the whole process. Exit status 1 if the median ratio
exceeds 1.10.
"""

import os
import statistics
import subprocess
import sys

import _record
import _timing

LIMIT = 1.10
MODULES = ("torch", "invertible")
# Compiled modules are kept, as in any installation.
ENVIRONMENT = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}


def seconds(module: str) -> float:
    """CPU seconds of a fresh interpreter that imports the module and ends."""
    before = os.times()
    subprocess.run([sys.executable, "-c", f"import {module}"], check=True, env=ENVIRONMENT)
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def loaded(module: str) -> set[str]:
    """Names of the modules in memory after the import."""
    code = f"import {module}, sys; print(*sys.modules)"
    return set(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split())


def main() -> int:
    parser = _record.parser(__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    rounds = options.rounds
    found: dict[str, list[float]] = {module: [] for module in MODULES}
    for module in MODULES:
        seconds(module)  # writes bytecode, fills the disk cache
    for index in range(rounds):
        for module in MODULES if index % 2 == 0 else MODULES[::-1]:
            found[module].append(seconds(module))
    ratio = _timing.median_ratio(found["invertible"], found["torch"])
    extra = sorted(loaded("invertible") - loaded("torch"))
    packages = sorted({name.split(".")[0] for name in extra} - {"invertible", *sys.stdlib_module_names})
    rows = [[f"`import {module}`", f"{statistics.median(times):.2f}"] for module, times in found.items()]
    text = _record.table(["fresh process", "CPU time, s"], rows)
    text += f"\n\nMedian ratio of {rounds} interleaved rounds: {ratio:.3f}, limit {LIMIT:.2f}: "
    text += "passed." if ratio <= LIMIT else "MISSED."
    text += f"\n\n{len(extra)} modules more than torch loads; packages other than its own and the standard library's: "
    text += (", ".join(packages) or "none") + "."
    data = {"environment": _record.environment("invertible"), "rounds": rounds, "seconds": found, "ratio": ratio}
    _record.write(options.out, "import-time", "Import time", text, data | {"limit": LIMIT, "extra_modules": extra})
    return 0 if ratio <= LIMIT else 1


if __name__ == "__main__":
    sys.exit(main())
