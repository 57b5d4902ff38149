"""README.md's tables of speed, from the newest grids of benchmarks/results. Both packages ran on one GPU in one run.

python benchmarks/tables.py            prints them
python benchmarks/tables.py --update   writes them to README.md
"""

import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
PLACE = re.compile(r"(<!-- benchmarks/tables.py -->\n).*?(<!-- end -->)", re.DOTALL)

SAMPLING = {
    "from_probs": "`sampling_from_probs`",
    "from_logits": "`sampling_from_logits`",
    "top_p0.9": "`top_p_sampling_from_probs`, 0.9",
    "min_p0.1": "`min_p_sampling_from_probs`, 0.1",
    "top_k50": "`top_k_sampling_from_probs`, 50",
    "top_k50_top_p0.9_from_logits": "`top_k_top_p_sampling_from_logits`, 50, 0.9",
    "softmax": "`softmax`",
    "top_p_renorm0.9": "`top_p_renorm_probs`, 0.9",
    "top_k_mask50": "`top_k_mask_logits`, 50",
    "topk64": "`top_k`, 64",
}
SELECTION = {
    "top_k2048/{}/v32768/float32": "`top_k`, 2048 of 32768, fp32",
    "top_k2048/{}/v131072/float32": "2048 of 131072",
    "top_k2048/{}/v131072/bfloat16": "2048 of 131072, bf16",
    "page_table2048/{}/v131072/float32": "`top_k_page_table_transform`, 2048 of 131072, fp32",
    "page_table512/{}/v8192/bfloat16": "512 of 8192, bf16",
}
DECODE = {
    "decode/gqa32x8/bs1/kv1024/p16": "1 x 1024 keys",
    "decode/gqa32x8/bs1/kv8192/p16": "1 x 8192",
    "decode/gqa32x8/bs16/kv8192/p16": "16 x 8192",
    "decode/gqa32x8/bs64/kv8192/p16": "64 x 8192",
    "decode/gqa8x1/bs64/kv8192/p16": "64 x 8192, 8 heads over 1",
    "decode/gqa32x8/bs64/kv8192/p1": "64 x 8192, pages of one token",
    "decode/gqa32x8/bs64/kv8192/p16/e4m3": "64 x 8192, e4m3 cache",
    "decode/gqa32x8/bs64/kvzipf131072/p16": "64 requests, Zipf lengths up to 131072",
    "prefill/paged/fa2/bs32/q16/kv8192/h32x8/d128/p16/causal/bf16": "32 x 8192, 16 query tokens each",
}


def newest(name):
    return json.loads(max((ROOT / "benchmarks/results").glob(f"*/*-{name}-grid.json"), key=lambda grid: grid.name).read_text())


def rows(header, lines):
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [header, ["---"] * len(header), *lines])


def source(grid):
    return f"{grid['gpu']}, {grid['date']}, commit {grid['commit']}; in brackets {grid['peer']}, in the same run."


def cells(cases, key, batch_sizes):
    def cell(case):
        peer = f" ({case['peer_us']:.1f})" if "peer_us" in case else ""  # did not build in the time there was
        return f"{case['ours_us']:.1f}{peer}"

    return [cell(cases[key.format(f"bs{batch_size}")]) for batch_size in batch_sizes]


def of_rows(batch_sizes):
    return [f"{n} rows" if n > 1 else "1 row" for n in batch_sizes]


def sampling():
    grid, batch_sizes = newest("sampling"), (1, 16, 128, 512)
    lines = [[name, *cells(grid["cases"], f"sampling/{op}/{{}}/v128256", batch_sizes)] for op, name in SAMPLING.items()]
    return rows(["us at 128256 tokens, fp32", *of_rows(batch_sizes)], lines), f"{source(grid)} In CUDA graphs, seeds given."


def selection():
    grid, batch_sizes = newest("topk"), (1, 16, 64, 128, 512)
    lines = [[name, *cells(grid["cases"], f"topk/{key}", batch_sizes)] for key, name in SELECTION.items()]
    return rows(["us, as sparse attention selects", *of_rows(batch_sizes)], lines), f"{source(grid)} In CUDA graphs."


def decode():
    grid = newest("decode")
    lines = []
    for key, name in DECODE.items():
        case = grid["cases"][key]
        lines.append([name, f"{case['ours_us']:.1f} ({case['peer_us']:.1f})", f"{case['bytes'] / case['ours_us'] * 1e-6:.2f}"])
    return rows(["decode, bf16, 32 heads of 128 over 8, pages of 16", "us", "TB/s"], lines), source(grid)


def tables():
    return "\n\n".join(part for table in (decode(), sampling(), selection()) for part in table)


if __name__ == "__main__":
    if sys.argv[1:] == ["--update"]:
        README.write_text(PLACE.sub(lambda found: f"{found[1]}\n{tables()}\n\n{found[2]}", README.read_text()))
    else:
        print(tables())
