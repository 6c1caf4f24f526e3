"""Runs the Python examples of README and docs, each in a new process and an empty folder."""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

root = Path(__file__).parents[1]
for path in (root / "README.md", root / "docs" / "index.md", root / "docs" / "tutorial.md"):
    examples = re.findall(r"^```python\n(.*?)^```", path.read_text(), re.MULTILINE | re.DOTALL)
    if not examples:
        sys.exit(f"{path.name} has no Python examples")
    for example in examples:
        with tempfile.TemporaryDirectory() as folder:
            done = subprocess.run([sys.executable, "-c", example], cwd=folder, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"this example of {path.name} fails:\n\n{example}\n{done.stderr}")
    print(f"{len(examples)} examples of {path.name} run")
