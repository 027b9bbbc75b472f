"""The loop with Hugging Face accelerate."""

from __future__ import annotations

import torch
from accelerate import Accelerator
from torch import nn

from speed.material import learning, loaders, network
from speed.serve import Round, serve
from speed.task import LEARNING_RATE, Task


def prepare(task: Task) -> Round:
    train, val = loaders(task)

    def run() -> None:
        accelerator = Accelerator(cpu=True)
        model = network(task)
        optimizer = torch.optim.Adam(learning(model), lr=LEARNING_RATE)
        model, optimizer, batches, held_out = accelerator.prepare(model, optimizer, train, val)
        criterion = nn.CrossEntropyLoss()
        for _ in range(task.epochs):
            model.train()
            for images, labels in batches:
                optimizer.zero_grad()
                loss = criterion(model(images), labels)
                accelerator.backward(loss)
                optimizer.step()
            model.eval()
            right = 0
            with torch.no_grad():
                for images, labels in held_out:
                    found = model(images).argmax(1)
                    found, labels = accelerator.gather_for_metrics((found, labels))
                    right += (found == labels).sum().item()

    return run


if __name__ == "__main__":
    serve(prepare, "accelerate")
