"""The main job on real input: checkpoints that transformers wrote, generated token for token as transformers does."""

import json
import subprocess
import sys

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from flashinfer.demo.arrays import NumPy, Torch  # noqa: E402
from flashinfer.demo.engine import Engine, Request  # noqa: E402
from flashinfer.demo.model import Batch, Llama  # noqa: E402

PROMPT_LENS = [1, 3, 7, 16, 17, 33, 64, 90]


def save_checkpoint(folder, *, tied, llama31, seed=0):
    torch.manual_seed(seed)
    rope = {"rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64} if llama31 else {"rope_type": "default", "rope_theta": 10000.0}
    config = transformers.LlamaConfig(
        vocab_size=503, hidden_size=128, intermediate_size=344, num_hidden_layers=3, num_attention_heads=8, num_key_value_heads=2,
        max_position_embeddings=512, rms_norm_eps=1e-5, tie_word_embeddings=tied, bos_token_id=None, eos_token_id=None, pad_token_id=0, initializer_range=0.08)
    if hasattr(config, "rope_parameters"):
        config.rope_parameters = rope
    else:
        config.rope_theta, config.rope_scaling = rope.pop("rope_theta"), rope if llama31 else None
    model = transformers.LlamaForCausalLM(config).eval()
    for name, parameter in model.named_parameters():
        if "norm" in name:  # weights that a missing multiplication would betray
            parameter.data.uniform_(0.5, 1.5)
    model.save_pretrained(folder)
    return model


def prompts(seed=1):
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 503, n).tolist() for n in PROMPT_LENS]


@pytest.fixture(scope="module", params=[(False, True), (True, False)], ids=["untied-llama31", "tied-default"])
def checkpoint(request, tmp_path_factory):
    tied, llama31 = request.param
    folder = tmp_path_factory.mktemp("checkpoint")
    return folder, save_checkpoint(folder, tied=tied, llama31=llama31)


def poison(model):
    for layer in model.layers:
        layer["cache"][...] = float("nan")


@pytest.mark.parametrize("framework", ["numpy", "torch"])
def test_greedy_tokens_equal_transformers(checkpoint, framework):
    folder, reference = checkpoint
    arrays = NumPy("float32") if framework == "numpy" else Torch("float32", "cpu")
    model = Llama.from_folder(folder, arrays, num_pages=40, page_size=8)  # too few for all at once: requests wait, give way and come back
    poison(model)
    requests = [Request(prompt, 20, arrival=3 * i) for i, prompt in enumerate(prompts())]
    engine = Engine(model, max_step_tokens=48)
    for request in requests:
        engine.add(request)
    assert len(engine.run()) == len(requests)
    assert len(engine.pool.free) == engine.pool.num_pages
    assert engine.pool.num_taken > engine.pool.num_pages, "pages were not reused"
    for request in requests:
        with torch.no_grad():
            expected = reference.generate(torch.tensor([request.prompt]), attention_mask=torch.ones(1, len(request.prompt), dtype=torch.long),
                                          max_new_tokens=20, min_new_tokens=20, do_sample=False)[0, len(request.prompt):].tolist()
        assert request.generated == expected


@pytest.mark.parametrize("framework", ["numpy", "torch"])
def test_sampled_tokens(checkpoint, framework):
    """Each request draws with its own parameters and seed: the same tokens alone, in a crowd and after giving way; tokens that the filters
    of transformers' own logits keep."""
    folder, reference = checkpoint
    arrays = NumPy("float32") if framework == "numpy" else Torch("float32", "cpu")
    kinds = [{}, {"temperature": 1.3, "seed": 5}, {"temperature": 0.8, "top_k": 5, "seed": 6}, {"temperature": 2.0, "top_p": 0.3, "seed": 7},
             {"temperature": 1.0, "min_p": 0.5, "seed": 8}, {"temperature": 1.3, "seed": 9}]

    def serve(chosen, num_pages):
        model = Llama.from_folder(folder, arrays, num_pages=num_pages, page_size=8)
        engine = Engine(model, max_step_tokens=48)
        requests = [Request(prompts()[3 + i % 4], 12, arrival=i, **kinds[i]) for i in chosen]
        for request in requests:
            engine.add(request)
        engine.run()
        return requests

    crowd = serve(range(len(kinds)), 20)
    assert any(request.preempted for request in crowd)
    for i, request in enumerate(crowd):
        assert serve([i], 64)[0].generated == request.generated
        kind = kinds[i]
        tokens = torch.tensor([request.tokens[:-1]])
        with torch.no_grad():
            logits = reference(tokens).logits[0, len(request.prompt) - 1 :].double()
        probs = torch.softmax(logits / (kind.get("temperature") or 1e-6), -1)
        drawn = torch.tensor(request.generated)
        chosen = probs.gather(-1, drawn[:, None])
        above = torch.where(probs > chosen * 1.001, probs, 0.0)  # what comes before the token drawn
        assert ((above > 0).sum(-1) < (kind.get("top_k") or 503)).all()
        assert (above.sum(-1) < kind.get("top_p", 1.0) + 1e-4).all()
        assert (chosen[:, 0] > kind.get("min_p", 0.0) * probs.max(-1).values * 0.999).all()
    assert crowd[1].generated != crowd[5].generated
    assert len(set(crowd[1].generated)) > 6, "hardly random"


def test_bfloat16_logits(checkpoint, device):
    """Prompt logits in bf16 are as close to the float32 model's as transformers' own bf16 logits are."""
    folder, reference = checkpoint
    model = Llama.from_folder(folder, Torch("bfloat16", device), num_pages=64, page_size=16)
    poison(model)
    rounded = transformers.LlamaForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).eval()
    free = list(range(64))
    for prompt in prompts(2):
        pages = [free.pop() for _ in range(-(-len(prompt) // 16))]
        ours = model.arrays.to_numpy(model.forward(Batch(prompt, [len(prompt)], [len(prompt)], [pages], 16)))[0]
        with torch.no_grad():
            exact = reference(torch.tensor([prompt])).logits[0, -1].double().numpy()
            theirs = rounded(torch.tensor([prompt])).logits[0, -1].double().numpy()
        error = np.linalg.norm(ours - exact) / np.linalg.norm(exact)
        bound = np.linalg.norm(theirs - exact) / np.linalg.norm(exact)
        assert error < 1.25 * bound + 1e-3, (error, bound)


def test_command_line(tmp_path):
    save_checkpoint(tmp_path, tied=True, llama31=True)
    ran = subprocess.run([sys.executable, "-m", "flashinfer.demo", "--model", str(tmp_path), "--framework", "numpy", "--max-new-tokens", "8", "--requests", "5",
                          "--temperature", "0.8", "--top-k", "50", "--top-p", "0.9", "--min-p", "0.01", "--seed", "3"],
                         capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stderr
    for shown in ("prefill tok/s", "decode tok/s", "KV pages", "Time by op", "sampling", "0 in use now"):
        assert shown in ran.stdout


def demo(*arguments):
    from flashinfer.demo import __main__ as command

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["demo", "--framework", "numpy", "--max-new-tokens", "2", *map(str, arguments)])
        command.main()


@pytest.fixture
def folder(tmp_path):
    from tokenizers import Tokenizer, models, pre_tokenizers

    save_checkpoint(tmp_path, tied=True, llama31=False)
    tokenizer = Tokenizer(models.WordLevel({f"[w{i}]": i for i in range(503)}, unk_token="[w0]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    return tmp_path


def test_prompts_are_shown_as_they_are(folder, capsys):
    """rich takes [b] and [/b] for markup."""
    demo("--model", folder, "--prompt", "[/b] [w2]", "--prompt", "[b]")
    shown = capsys.readouterr().out
    assert "[/b] [w2] [w" in shown and "[b] [w" in shown


def config(folder, **changes):
    raw = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps({name: value for name, value in raw.items() if value is not None}))


def test_wrong_command_lines(folder, capsys):
    """A line that says what is wrong, no traceback."""
    with pytest.raises(SystemExit, match="No such file.*config.json"):
        demo("--model", folder / "no")
    with pytest.raises(SystemExit, match="expected at least one prompt token"):
        demo("--model", folder, "--prompt", "")
    with pytest.raises(SystemExit, match="512 positions, got 602 tokens"):
        demo("--model", folder, "--prompt", "x " * 600, "--pages", 1000)
    with pytest.raises(SystemExit, match="62 tokens need 4 pages of the KV cache, which has 3"):
        demo("--model", folder, "--prompt", "x " * 60, "--pages", 3)
    with pytest.raises(SystemExit, match="needs a --model"):
        demo("--prompt", "x")
    with pytest.raises(SystemExit, match="cuda needs torch"):
        demo("--device", "cuda")
    for option in ("--pages", "--page-size", "--requests", "--max-new-tokens"):
        for value in (0, -3):
            with pytest.raises(SystemExit):
                demo(f"{option}={value}")
            assert f"{option}: expected a number from 1 up, got {value}" in capsys.readouterr().err
    for option, value in (("--temperature", -1), ("--top-k", -1), ("--top-p", 1.5), ("--min-p", "nan")):
        with pytest.raises(SystemExit):
            demo(f"{option}={value}")
        assert f"{option}: expected a number from 0" in capsys.readouterr().err


def test_wrong_checkpoints(folder):
    config(folder, num_hidden_layers=4)
    with pytest.raises(SystemExit, match="model.layers.3.* the checkpoint lacks it"):
        demo("--model", folder)
    config(folder, num_hidden_layers=3, quantization_config={"quant_method": "fp8"})
    with pytest.raises(SystemExit, match="quantization_config is not supported"):
        demo("--model", folder)
    config(folder, quantization_config=None, hidden_size=None)
    with pytest.raises(SystemExit, match="config.json: hidden_size is missing"):
        demo("--model", folder)
    config(folder, hidden_size=128)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    for framework in ("numpy", "torch"):
        with pytest.raises(SystemExit, match="model.safetensors: "):
            demo("--model", folder, "--framework", framework)
