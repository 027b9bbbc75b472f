"""The Trainer of Hugging Face's transformers."""

from __future__ import annotations

import tempfile
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.data import default_collate
from transformers import EvalPrediction, Trainer, TrainingArguments

from speed.material import changing, datasets, learning, network
from speed.serve import Round, serve
from speed.task import BATCH_SIZE, LEARNING_RATE, Task


class WithLoss(nn.Module):
    """The network in the form that the Trainer takes; it changes training images itself."""

    def __init__(self, model: nn.Module, change: Callable[[Tensor], Tensor] | None) -> None:
        super().__init__()
        self.model = model
        self.change = change

    def forward(self, pixel_values: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Return loss and logits."""
        if self.change is not None and self.training:
            pixel_values = self.change(pixel_values)
        logits = self.model(pixel_values)
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


def accuracy(outcome: EvalPrediction) -> dict[str, float]:
    """Return the share of right answers."""
    return {"accuracy": float((outcome.predictions.argmax(1) == outcome.label_ids).mean())}


def prepare(task: Task) -> Round:
    train, val = datasets(task)
    change = changing(task) if task.augmented else None

    def collate(samples: list[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
        images, labels = default_collate(samples)
        return {"pixel_values": images, "labels": labels}

    arguments = TrainingArguments(
        output_dir=tempfile.mkdtemp(),
        per_device_train_batch_size=BATCH_SIZE,
        per_device_eval_batch_size=BATCH_SIZE,
        num_train_epochs=task.epochs,
        eval_strategy="epoch",
        save_strategy="no",
        logging_strategy="epoch",
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
    )

    def run() -> None:
        model = WithLoss(network(task), change)
        optimizer = torch.optim.Adam(learning(model), lr=LEARNING_RATE)
        constant = torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0)
        Trainer(
            model=model,
            args=arguments,
            data_collator=collate,
            train_dataset=train,
            eval_dataset=val,
            compute_metrics=accuracy,
            optimizers=(optimizer, constant),
        ).train()

    return run


if __name__ == "__main__":
    serve(prepare, "transformers", "accelerate")
