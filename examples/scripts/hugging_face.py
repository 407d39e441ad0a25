"""Fine-tuning with Hugging Face's Trainer and LoRA adapters (Hu et al. 2021): the adapters travel, the base stays.

    fl-aggregator --script examples/scripts/hugging_face.py --shared trainable --rounds 5 --quorum 3
    fl-worker --script examples/scripts/hugging_face.py --name north -- --site north

Needs the extra `examples`. The base is a tiny GPT-2 of random weights, the same at every site as its seed is; a real
script has `AutoModelForCausalLM.from_pretrained(...)` here.
"""

import argparse
import tempfile
import zlib

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

import fedmq

VOCABULARY, LENGTH = 256, 16


class Counting(Dataset[dict[str, Tensor]]):
    """Sequences that count on from a random beginning, as texts that a model has never seen."""

    def __init__(self, num_sequences: int, *, seed: int) -> None:
        random = torch.Generator().manual_seed(seed)
        begin = torch.randint(VOCABULARY, (num_sequences, 1), generator=random)
        self.sequences = (begin + torch.arange(LENGTH)) % VOCABULARY

    def __len__(self) -> int:
        return len(self.sequences)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"input_ids": self.sequences[index], "labels": self.sequences[index]}


class StopWith(TrainerCallback):
    """Ends a training that can no longer count."""

    def __init__(self) -> None:
        self.round: fedmq.Round | None = None

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **others: object
    ) -> None:
        control.should_training_stop = self.round is not None and self.round.cancelled()


def network() -> nn.Module:
    torch.manual_seed(0)
    base = GPT2LMHeadModel(GPT2Config(vocab_size=VOCABULARY, n_positions=LENGTH, n_embd=128, n_layer=2, n_head=2))
    return get_peft_model(base, LoraConfig(r=4, lora_alpha=16, target_modules=["c_attn"], fan_in_fan_out=True))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--site", default="anywhere", help="whose data")
    parser.add_argument("--lr", type=float, default=1e-2)
    arguments = parser.parse_args()

    model = network()
    train_set = Counting(64, seed=zlib.crc32(arguments.site.encode()))
    stop = StopWith()
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            model,
            TrainingArguments(
                folder,
                learning_rate=arguments.lr,
                lr_scheduler_type="constant",
                num_train_epochs=1,
                per_device_train_batch_size=8,
                save_strategy="no",
                report_to="none",
                disable_tqdm=True,
            ),
            train_dataset=train_set,
            eval_dataset=Counting(64, seed=0),
            callbacks=[stop],
        )
        for stop.round in fedmq.rounds(model, evaluate=lambda model: {"loss": trainer.evaluate()["eval_loss"]}):
            result = trainer.train()
            stop.round.send(num_samples=len(train_set), metrics={"loss": result.training_loss})


if __name__ == "__main__":
    main()
