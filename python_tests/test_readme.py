"""The examples of README.md run as they stand there."""

import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import flashinfer

README = Path(__file__).parent.parent / "README.md"


def examples(language):
    return re.findall(rf"<!-- tested: [^>]*-->\n```{language}\n(.*?)```", README.read_text(), re.DOTALL)


def test_python_example():
    (source,) = examples("python")
    ran = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr


def test_tables_are_those_of_the_results():
    spec = importlib.util.spec_from_file_location("tables", README.parent / "benchmarks" / "tables.py")
    tables = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tables)
    assert f"<!-- benchmarks/tables.py -->\n\n{tables.tables()}\n\n<!-- end -->" in README.read_text()


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
def test_cpp_example(tmp_path):
    (source,) = examples("cpp")
    (tmp_path / "example.cpp").write_text(source)
    include = Path(flashinfer.__file__).parent / "include"
    built = subprocess.run(["g++", "-std=c++20", "-O1", f"-I{include}", "example.cpp", "-o", "example", "-pthread", "-ldl"], cwd=tmp_path,
                           capture_output=True, text=True, timeout=300)
    assert built.returncode == 0, built.stderr
    assert subprocess.run([tmp_path / "example"], timeout=60).returncode == 0
