"""Run every benchmark, one after the other; exit status 1 if one of them failed or missed a limit.

python benchmarks/run_all.py [--quick]
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
# Each script, and its options for a quick look.
SCRIPTS = {
    "floors.py": [],
    "import_time.py": ["--rounds", "3"],
    "round_trip.py": ["--instances", "2", "--skip-models"],
    "flows.py": ["--rounds", "3"],
    "memory.py": ["--quick"],
    "memory_traps.py": ["--quick"],
    "digits.py": ["--pairs", "400", "--double-pairs", "200", "--skip-trained"],
    "refined_inverse.py": ["--networks", "6", "--skip-costs"],
    "stability.py": ["--layers", "8", "--steps", "100"],
    "deep_stability.py": ["--layers", "8", "--steps", "50"],
    "exploding_classifier.py": ["--epochs", "2"],
    "reversible_classifiers.py": ["--data", "digits", "--seeds", "1", "--epochs", "2", "--checks", "2"],
    "revnet_memory.py": ["--quick"],
    "irevnet_digits.py": ["--seeds", "1", "--epochs", "2"],
    "lipschitz_certificates.py": [],
    "fixed_point.py": [],
    "residual_step.py": [],
    "adaptive_solvers.py": [],
    "reversible_ode.py": [],
    "global_round_trip.py": ["--steps", "20", "--models", "residual", "continuous, rk4"],
    "irim_memory.py": ["--quick"],
    "mri_reconstruction.py": ["--seconds", "5"],
    "globally_invertible.py": ["--data", "moons", "--seconds", "5", "--seeds", "1"],
    "audit_time.py": ["--models", "2x8", "--images", "32"],
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few rounds, for a look; keeps no results")
    quick = parser.parse_args().quick
    status = {}
    with tempfile.TemporaryDirectory() as folder:
        for script, short in SCRIPTS.items():
            print(f"== {script}", flush=True)
            options = [*short, "--out", folder] if quick and short else []
            status[script] = subprocess.run([sys.executable, str(HERE / script), *options]).returncode
    failed = [script for script, code in status.items() if code]
    print("All benchmarks passed." if not failed else f"Failed or missed a limit: {', '.join(failed)}.")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
