"""The binary interface of the public headers as text, a line for each thing that compiled programs rely on.

python tests/abi_layout.py > tests/abi.txt        after an addition; lines may not change or go within a major version
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent


def source_text(include):
    """What the C headers declare, without comments, macros and the lines for C++."""
    text = "".join(p.read_text() for p in sorted((include / "fastdl").glob("*.h")))
    text = re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL)
    text = re.sub(r"\\\n", " ", text)
    return re.sub(r"^\s*#.*$", "", text, flags=re.MULTILINE)


def names_in(text):
    """Structs with their fields, and enumerators."""
    structs = {
        name: [f for line in body.split(";") for f in fields_of(line)]
        for body, name in re.findall(r"typedef struct \w+ \{(.*?)\}\s*(\w+);", text, re.DOTALL)
    }
    enums = re.findall(r"enum\s*\w*\s*\{(.*?)\}", text, re.DOTALL)
    constants = [c.split("=")[0].strip() for body in enums for c in body.split(",") if c.strip()]
    return structs, [c for c in constants if not c.endswith("_KINDS")]  # how many there are, so far


def fields_of(declaration):
    pointer = re.search(r"\(\*(\w+)\)", declaration)
    if pointer:
        return [pointer[1]]
    return [
        re.match(r".*?(\w+)\s*(?:\[\d+\])?$", part.strip(), re.DOTALL)[1]
        for part in declaration.split(",")
        if part.strip()
    ]


def prototypes(text):
    found = re.findall(r"FASTDL_API\s+([^;{}]*?\b)(fastdl_\w+)\(([^;]*)\);", text)
    for result, name, parameters in found:
        types = [re.sub(r"\s*\b\w+(\[\d\])?$", r"\1", " ".join(p.split())) for p in parameters.split(",")]
        yield f"{' '.join(result.split())} {name}({', '.join(types) if parameters != 'void' else 'void'})"
    for result, name, parameters in re.findall(
        r"typedef (\w+) \(\*(fastdl_\w+)\)\((.*?)\);", text, re.DOTALL
    ):
        yield f"{name}: {result} ({' '.join(parameters.split())})"
    for name in re.findall(r"FASTDL_CUDA_OP\((\w+)\);", text):
        yield f"fastdl_cuda_{name} as fastdl_{name}"


def lines(include, compiler="cc"):
    text = source_text(include)
    structs, constants = names_in(text)
    # What begins with its own size may grow.
    fixed = [name for name, fields in structs.items() if fields[0] != "struct_size"]
    show = [f'  printf("{name} %zu\\n", sizeof({name}));\n' for name in fixed]
    for name, fields in structs.items():
        show += [
            f'  printf("{name}.{f} %zu %zu\\n", offsetof({name}, {f}), sizeof((({name}*)0)->{f}));\n'
            for f in fields
        ]
    show += [f'  printf("{c} %d\\n", (int){c});\n' for c in constants]
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "layout"
        source = program.with_suffix(".c")
        source.write_text(
            f"#include <fastdl/cuda.h>\n#include <stdio.h>\nint main(void) {{\n{''.join(show)}  return 0;\n}}\n"
        )
        subprocess.run([compiler, f"-I{include}", source, "-o", program], check=True)
        layout = subprocess.run([program], check=True, capture_output=True, text=True).stdout.splitlines()
    return sorted(layout) + sorted(prototypes(text))


if __name__ == "__main__":
    compiler = shutil.which(os.environ.get("CC", "cc"))
    print("\n".join(lines(HERE.parent / "csrc" / "include", compiler)), file=sys.stdout)
