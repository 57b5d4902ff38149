"""File names say what is inside, files stay short enough to read, and the version is written once."""

import re
from pathlib import PurePosixPath

import tree

VAGUE = {"util", "utils", "helper", "helpers", "impl", "common", "misc", "stuff", "v2", "fast", "new"}
MOST_LINES = 800
# Names that are not ours to choose.
GIVEN = {
    "bindings/flashinfer/utils.py": "FlashInfer's module name, imported by engines",
}
VERSION = "include/flashinfer/version.hpp"


def check(files):
    release = re.search(r'FLASHINFER_VERSION "(.*?)"', files.get(VERSION, ""))
    for path, text in files.items():
        suffix = PurePosixPath(path).suffix
        if suffix in tree.SOURCE:
            vague = VAGUE & set(re.split(r"[/_.\-]", path.lower())) if path not in GIVEN else None
            if vague:
                yield f"{path}:1: '{vague.pop()}' says nothing of what is inside"
            lines = text.count("\n")
            if lines > MOST_LINES:
                yield f"{path}:{lines}: longer than {MOST_LINES} lines: split it by role (_load, _mma, _store)"
        if release and path not in {VERSION, "CHANGELOG.md"}:
            for line, _ in tree.find(rf"(?<![\d.=]){re.escape(release[1])}(?![\d.])", text):
                yield f"{path}:{line}: the version is written in {VERSION} alone; read it from there"


GOOD = [
    {VERSION: '#define FLASHINFER_VERSION "9.9.9"\n', "CHANGELOG.md": "## 9.9.9\n", "pyproject.toml": "a==9.9.9 b==19.9.9\n"},
    {"include/flashinfer/norm/rmsnorm.hpp": "\n" * MOST_LINES, "bindings/flashinfer/utils.py": ""},
]
BAD = [
    {VERSION: '#define FLASHINFER_VERSION "9.9.9"\n', "pyproject.toml": 'version = "9.9.9"\n'},
    {"include/flashinfer/norm/rmsnorm_utils.hpp": ""},
    {"include/flashinfer/common/vec.hpp": ""},
    {"bindings/norm_v2.cpp": ""},
    {"bindings/norm.cpp": "\n" * (MOST_LINES + 1)},
]

if __name__ == "__main__":
    tree.run(check, GOOD, BAD)
