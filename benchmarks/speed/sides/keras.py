"""Keras on its torch backend, with torchvision's network as a layer."""

from __future__ import annotations

import os

os.environ["KERAS_BACKEND"] = "torch"

import keras

from speed.material import loaders, network
from speed.serve import Round, serve
from speed.task import LEARNING_RATE, Task


def prepare(task: Task) -> Round:
    batches, held_out = loaders(task)

    def run() -> None:
        model = keras.Sequential([keras.layers.TorchModuleWrapper(network(task))])
        model.compile(
            optimizer=keras.optimizers.Adam(LEARNING_RATE),
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
        )
        model.fit(batches, validation_data=held_out, epochs=task.epochs, verbose=0)

    return run


if __name__ == "__main__":
    serve(prepare, "keras")
