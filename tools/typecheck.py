"""Run mypy over the package as it is installed: with kernels/ and benchmarks/ inside fastnn/.

mypy does not see setuptools' package-dir mapping, so it gets a folder of links.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def main() -> int:
    """mypy's exit code."""
    with tempfile.TemporaryDirectory() as folder:
        package = Path(folder, "fastnn")
        package.mkdir()
        for path in [*(ROOT / "fastnn").iterdir(), ROOT / "kernels", ROOT / "benchmarks"]:
            (package / path.name).symlink_to(path)
        command = [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml")]
        return subprocess.run([*command, "-p", "fastnn"], cwd=folder).returncode


if __name__ == "__main__":
    sys.exit(main())
