"""The files of the repository, and the loop that every check runs: first over its own examples, then over the tree.

A check is a function from {path: text} to the violations it finds, as "path:line: what is wrong". It plants examples:
each of `good` must pass and each of `bad` must not, or the check itself has failed."""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SOURCE = {".hpp", ".cuh", ".cpp", ".cu", ".py"}
TEXT = SOURCE | {".txt", ".cmake", ".md", ".toml", ".json", ".yaml", ".pyi", ".sh", ""}

_STRING = r'"(?:\\.|[^"\\\n])*"|(?<![0-9a-fA-F])\'(?:\\.|[^\'\\\n])*\''
_BLANK = rf'(?P<string>{_STRING})|//[^\n]*|/\*.*?\*/|R"(?P<raw>[^(]*)\(.*?\)(?P=raw)"'


def code(text, keep_strings=False):
    """C++ without comments and string literals (raw ones, at least), every other character in its place."""
    blank = lambda m: m[0] if keep_strings and m["string"] else re.sub(r"[^\n]", " ", m[0])
    return re.sub(_BLANK, blank, text, flags=re.DOTALL)


def find(pattern, text):
    """(line number, match) of every match."""
    for match in re.finditer(pattern, text, re.MULTILINE):
        yield text.count("\n", 0, match.start()) + 1, match


def files():
    """Every text file of the repository: {path from the root: text}."""
    found = {}
    pending = [ROOT]
    while pending:
        for path in sorted(pending.pop().iterdir()):
            if path.is_dir():
                if not re.match(r"\.(?!ci$)|build|dist$|__pycache__$|.*\.egg-info$", path.name):
                    pending.append(path)
            elif path.suffix in TEXT:
                found[path.relative_to(ROOT).as_posix()] = path.read_text(encoding="utf-8", errors="replace")
    return found


def run(check, good, bad):
    for example in good:
        for violation in check(example):
            sys.exit(f"The check refuses its good example: {violation}")
    for example in bad:
        if not list(check(example)):
            sys.exit(f"The check accepts its bad example: {example}")
    violations = sorted(set(check(files())))
    print("\n".join(violations) or "ok")
    sys.exit(1 if violations else 0)
