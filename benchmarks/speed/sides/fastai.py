"""fastai's Learner."""

from __future__ import annotations

from fastai.vision.all import Adam, DataLoaders, Learner, accuracy
from torch import nn

from speed.material import loaders, network
from speed.serve import Round, serve
from speed.task import LEARNING_RATE, Task


def prepare(task: Task) -> Round:
    data = DataLoaders(*loaders(task), device="cpu")

    def run() -> None:
        learner = Learner(
            data, network(task), loss_func=nn.CrossEntropyLoss(), opt_func=Adam, metrics=accuracy
        )
        with learner.no_bar(), learner.no_logging():
            learner.fit(task.epochs, LEARNING_RATE)

    return run


if __name__ == "__main__":
    serve(prepare, "fastai")
