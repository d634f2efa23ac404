"""vLLM, sampling with its default settings: on a GPU, with half of its memory; else its CPU build on all cores."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "2")
os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", f"0-{(os.cpu_count() or 1) - 1}")  # by itself it leaves one idle
os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")


def main() -> None:
    """Until the input ends."""
    parser = argparse.ArgumentParser()
    parser.add_argument("task", choices=["sampling"])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--rows", default="short")
    arguments = parser.parse_args()

    import torch
    import vllm
    import work
    from sides.gate import Gate
    from vllm import LLM, SamplingParams

    gate = Gate(vllm=vllm.__version__, torch=torch.__version__)
    dtype = {"fp32": "float32", "bf16": "bfloat16"}[arguments.precision]
    memory = {"gpu_memory_utilization": 0.5} if torch.cuda.is_available() else {}  # the other sides live there too
    directory, sizes = str(arguments.work / "endless"), work.SIZES[arguments.rows]
    longest = max(256, sizes.prompt + sizes.new)
    model = LLM(directory, dtype=dtype, max_model_len=longest, max_num_seqs=64, seed=0, **memory)
    rows = work.read(arguments.work, "prompts.jsonl")
    conversations = [[{"role": "user", "content": row["prompt"]}] for row in rows]
    settings = SamplingParams(n=work.SAMPLES_EACH, temperature=1.0, top_p=1.0, max_tokens=sizes.new, ignore_eos=True)
    while True:
        gate.begin()
        outputs = model.chat(conversations, settings, use_tqdm=False)
        tokens = sum(len(one.token_ids) for output in outputs for one in output.outputs)
        gate.end(tokens=tokens, prompt_tokens=sum(len(output.prompt_token_ids or []) for output in outputs))


if __name__ == "__main__":
    main()
