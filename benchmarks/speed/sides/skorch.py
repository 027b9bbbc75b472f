"""skorch's classifier."""

from __future__ import annotations

import torch
from skorch import NeuralNetClassifier
from skorch.helper import predefined_split
from torch import nn

from speed.material import loaders, network
from speed.serve import Round, serve
from speed.task import BATCH_SIZE, LEARNING_RATE, Task


def prepare(task: Task) -> Round:
    batches, held_out = loaders(task)

    def run() -> None:
        net = NeuralNetClassifier(
            network(task),
            criterion=nn.CrossEntropyLoss,
            optimizer=torch.optim.Adam,
            lr=LEARNING_RATE,
            batch_size=BATCH_SIZE,
            max_epochs=task.epochs,
            iterator_train__shuffle=True,
            iterator_train__collate_fn=batches.collate_fn,
            train_split=predefined_split(held_out.dataset),
            classes=[0, 1],
            verbose=0,
        )
        net.fit(batches.dataset, y=None)

    return run


if __name__ == "__main__":
    serve(prepare, "skorch")
