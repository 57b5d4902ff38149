"""Every op stands on both back ends, with a test and a benchmark: an include/flashinfer/<op>/X.hpp that calls a back end has
cpu/X.hpp and gpu/X.hpp beside it, and X is named in cpp_tests/ or python_tests/, and in benchmarks/. X_part.hpp beside X.hpp is no op
but a part of X. And every folder of cpp_tests/ mirrors one of include/flashinfer."""

import re
from pathlib import PurePosixPath

import layers
import tree

# "<op>/X: missing part" -> why it is missing. An entry that is no longer true fails too.
EXPECTED = {}


def names(op, path, text):
    """Is the file of the op, or does it call it?"""
    word = rf"(?:(?<!\w)|(?<=test_)|(?<=bench_)){op}(?![A-Za-z0-9])"
    return path.endswith(tuple(tree.SOURCE)) and re.search(word, path + "\n" + text)


def missing(files):
    """(op, part) for every part an op lacks."""
    for path, text in files.items():
        match = re.fullmatch(r"include/flashinfer/(\w+)/(\w+)\.hpp", path)
        if not match or match[1] in layers.FOLDERS or not re.search(rf"<flashinfer/{match[1]}/(cpu|gpu)/", text):
            continue
        family, op = match.groups()
        folder = f"include/flashinfer/{family}"
        if f"{folder}/{op.rpartition('_')[0]}.hpp" in files:
            continue
        named_in = lambda *tops: any(path.startswith(tops) and names(op, path, text) for path, text in files.items())
        parts = {
            f"cpu/{op}.hpp": f"{folder}/cpu/{op}.hpp" in files,
            f"gpu/{op}.hpp": f"{folder}/gpu/{op}.hpp" in files,
            "a test": named_in("cpp_tests/", "python_tests/"),
            "a benchmark": named_in("benchmarks/"),
        }
        yield from ((f"{family}/{op}", part) for part, there in parts.items() if not there)


def check(files):
    found = {f"{op}: {part}" for op, part in missing(files)}
    for item in found - EXPECTED.keys():
        yield f"include/flashinfer/{item.replace(':', '.hpp:1: lacks')}"
    if "cmake/checks/mirror.py" in files:  # not an example
        for item in EXPECTED.keys() - found:
            yield f"cmake/checks/mirror.py:1: '{item}' is not missing any more: take it from the list"
    folders = {PurePosixPath(p).parts[2] for p in files if re.match(r"include/flashinfer/\w+/", p)}
    folders.add("gpu_emulation")  # runs kernels on the CPU: it mirrors all of them
    for path in files:
        match = re.match(r"cpp_tests/(\w+)/", path)
        if match and match[1] not in folders:
            yield f"{path}:1: cpp_tests/{match[1]} mirrors no folder of include/flashinfer"


OP = {
    "include/flashinfer/norm/rmsnorm.hpp": "#include <flashinfer/norm/cpu/rmsnorm.hpp>\n",
    "include/flashinfer/norm/cpu/rmsnorm.hpp": "",
    "include/flashinfer/norm/gpu/rmsnorm.hpp": "",
    "include/flashinfer/norm/rmsnorm_params.hpp": "",
    "cpp_tests/norm/test_norm.cpp": "TEST(Rmsnorm, matches) { rmsnorm(x); }",
    "benchmarks/norm.py": "fused_add_rmsnorm, rmsnorm",
}
PART = {"include/flashinfer/norm/rmsnorm_shape.hpp": OP["include/flashinfer/norm/rmsnorm.hpp"]}
GOOD = [OP, OP | PART, {"include/flashinfer/attention/paged_kv.hpp": "#include <flashinfer/core/math.hpp>\n"}]
NEEDED = [path for path in OP if not path.startswith("include/flashinfer/norm/rmsnorm")]
BAD = [{path: text for path, text in OP.items() if path != gone} for gone in NEEDED]
BAD += [PART, OP | {"cpp_tests/norms/test_other.cpp": ""}, OP | {"benchmarks/norm.py": "fused_add_rmsnorm"}]

if __name__ == "__main__":
    tree.run(check, GOOD, BAD)
