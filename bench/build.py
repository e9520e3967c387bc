"""What ships: the build that is linked in one piece, where tools/env says that it is."""

import os
import subprocess
import sys
from pathlib import Path

from servers import CACHE, ROOT


def binary_of():
    print("building firm as it ships; after a change that takes minutes", file=sys.stderr, flush=True)
    target = os.environ.get("CARGO_TARGET_DIR") or (CACHE / "target" if os.environ.get("CI") else ROOT / "target")
    built = subprocess.run(["cargo", "build", "--quiet", "--profile", "dist", "--package", "firm", "--bins"], cwd=ROOT, env=os.environ | {"CARGO_TARGET_DIR": str(target)}, check=False)
    if built.returncode != 0:
        sys.exit("error: firm can't be built; see cargo's words above")
    return Path(target) / "dist/firm"
