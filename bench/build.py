"""The release build, where tools/env says that it is."""

import os
import subprocess
import sys
from pathlib import Path

from servers import CACHE, ROOT


def binary_of():
    print("building firm", file=sys.stderr, flush=True)
    target = os.environ.get("CARGO_TARGET_DIR") or (CACHE / "target" if os.environ.get("CI") else ROOT / "target")
    built = subprocess.run(["cargo", "build", "--quiet", "--release", "--workspace", "--bins"], cwd=ROOT, env=os.environ | {"CARGO_TARGET_DIR": str(target)}, check=False)
    if built.returncode != 0:
        sys.exit("error: firm can't be built; see cargo's words above")
    return Path(target) / "release/firm"
