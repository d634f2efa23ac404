"""What Palate writes loads in TRL's trainer, which gives tokens the same log-probabilities and can train every weight.

TRL needs an environment of its own, as tests/objectives/test_equal_to_trl.py says.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
from tests.lm import small_families

from palate.lm.batch import Sequences
from palate.lm.sources.zoo import load_language_model, save

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # TRL's own
    trl = pytest.importorskip("trl", minversion="1.16")
    from datasets import Dataset

TOKENS = 37


@pytest.mark.filterwarnings("ignore")  # TRL's own
@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma2"])
def test_trl_reads_the_same_model_and_trains_it(family: str, tmp_path: Path) -> None:
    small_families.written(family, tmp_path / "theirs")
    loaded = load_language_model(str(tmp_path / "theirs"), precision="fp32", device="cpu")
    torch.manual_seed(3)
    with torch.no_grad():
        for weight in loaded.model.parameters():
            weight += 0.05 * torch.randn_like(weight)
    save(loaded.model, loaded.chat, tmp_path / "ours")
    tokens = torch.randint(3, 259, (TOKENS,))
    with torch.no_grad():
        sequences = Sequences.pack([tokens[:1].tolist()], [tokens[1:].tolist()], group_ids=[0])
        ours = loaded.model.logprobs(sequences, temperature=1.0)[0, 1:]

    trainer = trl.SFTTrainer(
        model=str(tmp_path / "ours"),
        args=trl.SFTConfig(
            output_dir=str(tmp_path / "trained"),
            model_init_kwargs={"dtype": "float32"},
            max_steps=1,
            learning_rate=1e-2,
            use_cpu=True,
            bf16=False,
            report_to="none",
            save_strategy="no",
        ),
        train_dataset=Dataset.from_dict({"text": ["What is to be said of that, then?"] * 8}),
    )
    with torch.no_grad():
        logits = trainer.model.eval()(tokens[None]).logits[0, :-1]
    theirs = logits.log_softmax(-1).gather(1, tokens[1:, None])[:, 0]
    print(f"{family}: {(theirs - ours).abs().max():.2g} nats at most")
    torch.testing.assert_close(theirs, ours, rtol=0, atol=1e-4)
    before = {name: weight.detach().clone() for name, weight in trainer.model.named_parameters()}
    trainer.train()
    assert not [name for name, weight in trainer.model.named_parameters() if torch.equal(weight, before[name])]
