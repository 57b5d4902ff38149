"""Runs FlashInfer's own tests against this package, from a checkout outside the repository.

    python python_tests/upstream/run.py --checkout DIR [--sample 40] [--seed 1] [--json OUT] [FILES...]

The tests are copied to a temporary folder (beside nothing of theirs that could shadow this package), and shims.py gives the
names of build machinery that they import. Prints a table per file: passed, failed, skipped; names every failure with its reason and every skip.
Failures and skips in KNOWN are expected for the stated reason; the exit code is 1 if there is any other.
"""

import argparse
import collections
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from pathlib import Path

HERE = Path(__file__).parent

# The open suite of the operations that this package has.
FILES = [
    "tests/attention/test_batch_decode_kernels.py",
    "tests/attention/test_batch_prefill_kernels.py",
    "tests/attention/test_batch_prefill.py",
    "tests/attention/test_tensor_cores_decode.py",
    "tests/attention/test_logits_cap.py",
    "tests/attention/test_page.py",
    "tests/attention/test_rope.py",
    "tests/attention/test_shared_prefix_kernels.py",
    "tests/attention/test_workspace_size.py",
    "tests/utils/test_norm.py",
    "tests/utils/test_activation.py",
    "tests/utils/test_sampling.py",
    "tests/utils/test_topk.py",
    "tests/topk_varlen/test_topk_varlen.py",
    "tests/utils/test_logits_processor.py",
]

# Test function (regular expression) -> why it cannot pass or run here.
KNOWN = {
    r"nvfp4": "NVFP4 caches are not built yet",
    r"test_multi_cta_reuses_dirty_cached_row_states": "asks for FlashInfer's private workspace: there is none here",
    r"test_topk_varlen.*(lb_config|lb_max_batch_size|auto_gvr_knobs|backend_heuristic)": "FlashInfer's private choices of kernels",
    r"test_topk_varlen.*test_input_validation": "wrong arguments raise InvalidArgument, not AssertionError",
    r"test_batch_decode_rejects_unequal_kv_strides": "K and V may have different strides here",
    r"cta_tile_q_smem_probe": "asks for the tile size that FlashInfer chooses: another is chosen here",
    r"multi_item_scoring": "multi-item scoring is not built yet",
    r"test_(generalized_|mla_)?rope_quantize": "RoPE with FP8 quantisation is not built yet",
    r"test_generalized_rope_quantize": "RoPE with FP8 quantisation is not built yet",
    r"test_norm_compilation_without_fp8": "compiles FlashInfer's own csrc with nvcc",
    r"test_layernorm_quant\[": "imports flashinfer.trace",
    r"test_layernorm_quant_invalid_inputs": "layernorm_quant takes float16 and strided inputs here",
}


def known(name):
    return next((why for pattern, why in KNOWN.items() if re.search(pattern, name)), None)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkout", required=True, type=Path)
    parser.add_argument("--sample", type=int, default=0, help="at most N cases of each test function (0: all)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--workers", type=int, default=0, help="pytest-xdist processes sharing the GPU")
    parser.add_argument("files", nargs="*", default=FILES)
    args = parser.parse_args()

    results = {}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        shutil.copytree(args.checkout / "tests", root / "tests", ignore=shutil.ignore_patterns("__pycache__"))
        report = root / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", "--no-header", "-x" if os.environ.get("FAIL_FAST") else "-q", "--import-mode=importlib",
                   "-p", "shims", "-p", "no:cacheprovider", f"--junitxml={report}", f"--sample={args.sample}", f"--sample-seed={args.seed}",
                   "--tb=line", "-W", "ignore", *(["-n", str(args.workers)] if args.workers else []), *args.files]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), str(root), os.environ.get("PYTHONPATH", "")])}
        ran = subprocess.run(command, cwd=root, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if not report.exists():
            print(ran.stdout[-8000:])
            return 2
        for case in ET.parse(report).iter("testcase"):
            outcome, why = "passed", ""
            for kind in ("failure", "error", "skipped"):
                found = case.find(kind)
                if found is not None:
                    outcome, why = ("failed" if kind != "skipped" else kind), " ".join(((found.get("message") or "") + " " + (found.text or "")[-300:] * (kind != "skipped")).split())
            path = case.get("classname", "").replace(".", "/")
            results[f"{path}::{case.get('name')}"] = (outcome, why[:600])

    table = collections.defaultdict(collections.Counter)
    expected, unexpected, skips = collections.Counter(), [], collections.Counter()
    for name, (outcome, why) in results.items():
        file = name.split("::")[0]
        table[file][outcome] += 1
        if outcome == "failed":
            reason = known(name)
            if reason:
                expected[(name.split("[")[0], reason)] += 1
                table[file]["known"] += 1
            else:
                unexpected.append((name, why))
        elif outcome == "skipped":
            skips[(name.split("[")[0], why)] += 1
    print(f"{'file':52s} {'passed':>7s} {'failed':>7s} {'(known)':>8s} {'skipped':>8s}")
    for file, counts in sorted(table.items()):
        print(f"{file:52s} {counts['passed']:7d} {counts['failed']:7d} {counts['known']:8d} {counts['skipped']:8d}")
    for (name, reason), count in sorted(expected.items()):
        print(f"known failure  {count:5d} x {name.split('/')[-1]}: {reason}")
    for (name, why), count in sorted(skips.items()):
        print(f"skipped        {count:5d} x {name.split('/')[-1]}: {why}")
    for name, why in unexpected:
        print(f"FAILED {name}: {why}")
    if args.json:
        args.json.write_text(json.dumps({"seed": args.seed, "sample": args.sample, "results": results}, indent=0))
    total = collections.Counter(outcome for outcome, _ in results.values())
    print(f"{total['passed']} passed, {total['failed']} failed ({len(unexpected)} unexpected), {total['skipped']} skipped")
    return 1 if unexpected or not results else 0


if __name__ == "__main__":
    sys.exit(main())
