"""The main job: a Llama-architecture model served with continuous batching over a paged KV cache, from this library's
operations and the framework's matrix product alone. `python -m flashinfer.demo --help`."""
