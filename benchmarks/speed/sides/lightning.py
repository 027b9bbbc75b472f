"""Lightning's Trainer."""

from __future__ import annotations

import lightning
import torch
from torch import Tensor, nn

from speed.material import learning, loaders, network
from speed.serve import Round, serve
from speed.task import LEARNING_RATE, Task


class Module(lightning.LightningModule):
    """The network with its loss, its optimizer and its accuracy."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.criterion = nn.CrossEntropyLoss()

    def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
        """Return the loss."""
        images, labels = batch
        loss: Tensor = self.criterion(self.model(images), labels)
        self.log("train_loss", loss, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], _: int) -> None:
        """Log loss and accuracy."""
        images, labels = batch
        logits = self.model(images)
        self.log("val_loss", self.criterion(logits, labels))
        self.log("val_accuracy", (logits.argmax(1) == labels).float().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return Adam."""
        return torch.optim.Adam(learning(self.model), lr=LEARNING_RATE)


def prepare(task: Task) -> Round:
    batches, held_out = loaders(task)

    def run() -> None:
        trainer = lightning.Trainer(
            max_epochs=task.epochs,
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
        )
        trainer.fit(Module(network(task)), batches, held_out)

    return run


if __name__ == "__main__":
    serve(prepare, "lightning")
