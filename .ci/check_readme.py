"""Runs README's Python examples, each in a new process and an empty folder."""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

readme = Path(__file__).parents[1] / "README.md"
examples = re.findall(r"^```python\n(.*?)^```", readme.read_text(), re.MULTILINE | re.DOTALL)
if not examples:
    sys.exit("README.md has no Python examples")
for example in examples:
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run([sys.executable, "-c", example], cwd=folder, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"this example of README.md fails:\n\n{example}\n{done.stderr}")
print(f"{len(examples)} examples of README.md run")
