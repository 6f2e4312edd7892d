"""The benchmarks that need no trained folds, in turn: tables that docs/benchmarks.md holds.

    python benchmarks/run_all.py --data-pack DIR

It takes hours on two cores. Each script can be run alone; see its docstring. Those of trainings
(cross_validation, ct_to_pet, nac_pet_to_ct, mr_to_pet, paper1, paper2, transfer,
vq_configurations) train first, or need what was trained.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
NEED_NO_PACK = {
    "export_roundtrip.py",
    "geometry.py",
    "large_volume.py",
    "metrics_agreement.py",
    "metrics_speed.py",
    "panel.py",
    "projector.py",
}
SCRIPTS = (
    "registration.py",
    "atlas_methods.py",
    "head_model.py",
    "head_model_speed.py",
    "run_heads.py",
    "geometry.py",
    "table_removal.py",
    "gate.py",
    "phantom_bone.py",
    "export_roundtrip.py",
    "panel.py",
    "large_volume.py",
    "metrics_speed.py",
    "metrics_agreement.py",
    "cohort.py",
    "fdg_uptake.py",
    "projector.py",
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-pack", type=Path, required=True)
    arguments = parser.parse_args()
    failed = []
    for script in SCRIPTS:
        pack = [] if script in NEED_NO_PACK else ["--data-pack", str(arguments.data_pack)]
        print(f"\n## {script}\n", flush=True)
        done = subprocess.run([sys.executable, str(HERE / script), *pack], check=False)
        failed += [script] if done.returncode else []
    if failed:
        print(f"These failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
