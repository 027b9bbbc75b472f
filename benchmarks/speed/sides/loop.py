"""The course's loop, written by hand: Adam, ``.item()`` at every batch, val after every epoch."""

from __future__ import annotations

import torch
from torch import nn

from speed.material import learning, loaders, network
from speed.serve import Round, serve
from speed.task import LEARNING_RATE, Task


def prepare(task: Task) -> Round:
    batches, held_out = loaders(task)

    def run() -> None:
        model = network(task)
        optimizer = torch.optim.Adam(learning(model), lr=LEARNING_RATE)
        criterion = nn.CrossEntropyLoss()
        for _ in range(task.epochs):
            model.train()
            total, right = 0.0, 0
            for images, labels in batches:
                optimizer.zero_grad()
                logits = model(images)
                loss = criterion(logits, labels)
                loss.backward()
                optimizer.step()
                total += loss.item() * len(labels)
                right += (logits.argmax(1) == labels).sum().item()
            model.eval()
            with torch.no_grad():
                for images, labels in held_out:
                    logits = model(images)
                    total += criterion(logits, labels).item()
                    right += (logits.argmax(1) == labels).sum().item()

    return run


if __name__ == "__main__":
    serve(prepare)
