"""Words with one home: inline assembly in gpu/ptx, kernels in gpu/entry.cuh and the JIT's wrapper, architecture tests below gpu/."""

import tree

# (word, where the rule holds, where it may stand, why)
HOME = [
    (
        r"\basm\b|\b__asm\w*",
        "",
        ("include/flashinfer/gpu/ptx/", "benchmarks/micro/"),  # micro-experiments try instructions that no kernel has
        "inline assembly belongs into gpu/ptx",
    ),
    (
        r"\b__global__\b",
        "include/",
        ("include/flashinfer/gpu/entry.cuh", "include/flashinfer/jit/"),
        "a kernel is a struct behind gpu/entry.cuh",
    ),
    (
        r"\b__CUDA_ARCH\w*",
        "",
        "include/flashinfer/gpu/",
        "what an architecture can do is asked below gpu/; above, it is a field of the config",
    ),
]


def check(files):
    for path, text in files.items():
        if not path.endswith((".hpp", ".cuh", ".cpp", ".cu")):
            continue
        text = tree.code(text)
        for word, scope, home, reason in HOME:
            if path.startswith(scope) and not path.startswith(home):
                for line, match in tree.find(word, text):
                    yield f"{path}:{line}: {match[0]}: {reason}"


GOOD = [
    {"include/flashinfer/gpu/ptx/mma.cuh": 'asm volatile("");'},
    {"include/flashinfer/gpu/entry.cuh": "__global__ void entry();"},
    {"include/flashinfer/gpu/vec.cuh": "#if __CUDA_ARCH__ >= 900\n#endif"},
    {"include/flashinfer/norm/gpu/a_kernel.cuh": "// asm and __global__\n/* __CUDA_ARCH__ */ int n = 1'000'000;"},
    {"include/flashinfer/norm/gpu/b_kernel.cuh": "char c = '\"'; auto s = \"asm\"; int prefix_asm;"},
    {"include/flashinfer/jit/jit_kernels.hpp": 'auto s = R"(extern "C" __global__ void f())";'},
    {"examples_cpp/own_kernel.cu": "__global__ void mine();"},
]
BAD = [
    {"include/flashinfer/gpu/vec.cuh": 'asm("");'},
    {"cpp_tests/gpu/test_vec.cu": '__asm__("");'},
    {"include/flashinfer/norm/gpu/rmsnorm_kernel.cuh": "#ifdef __CUDA_ARCH__\n#endif"},
    {"include/flashinfer/core/std.hpp": "#if __CUDA_ARCH_FEAT_SM90_ALL\n#endif"},
    {"include/flashinfer/norm/gpu/rmsnorm_kernel.cuh": "/* a */ __global__ void f();"},
]

if __name__ == "__main__":
    tree.run(check, GOOD, BAD)
