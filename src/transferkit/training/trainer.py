"""Training as a generator of epochs; ``fit`` is the short loop over it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import torch

from transferkit.data.dataset import ImageData
from transferkit.errors import ConfigError, TrainingError
from transferkit.models.caching import Cache, Where
from transferkit.models.classifier import Classifier
from transferkit.training.checks import check_data, check_epochs
from transferkit.training.feeds import Feeds
from transferkit.training.history import EpochRecord, History, Monitor
from transferkit.training.loader import batches_of
from transferkit.training.memory import kept_memory
from transferkit.training.options import (
    Augmentation,
    ClassWeights,
    OptimizerName,
    Options,
    Precision,
)
from transferkit.training.progress import Progress
from transferkit.training.resume import restore, state_of
from transferkit.training.run import Run
from transferkit.training.schedules import Plateau, Schedule, ScheduleName
from transferkit.training.state import TrainState


class Trainer:
    """Trains what is trainable in a classifier.

    One trainer is one run. A broken-off run goes on where it stopped when ``epochs`` or ``fit`` is
    called again with the same ``epochs``, also in another process (see :attr:`state`). Stages may
    be frozen or unfrozen between epochs: the optimizer always holds exactly the trainable
    parameters, and keeps what it has learnt of those that stay.

    Two runs with the same seed, model and data on the same machine give the same weights, bit for
    bit on the CPU. The caller's random numbers are left as they were.

    Args:
        model: The classifier; trained in place.
        optimizer: ``"adamw"``, ``"adam"`` or ``"sgd"`` (with momentum).
        lr: The base rate, at the head.
        weight_decay: Of weight matrices and kernels; biases and norms have none. By default 0.01
            for AdamW, 0 for the others.
        momentum: Of SGD.
        layer_decay: The rate falls by this factor with every stage away from the head.
        scheduler: A name, or a function ``(step, total) -> multiplier`` in optimizer steps.
        warmup: Linear warm-up; a float is a share of the run, an int a number of steps.
        batch_size: Images a batch; a trailing batch of one joins the one before.
        label_smoothing: Share of the target that is spread over all classes.
        class_weights: ``"balanced"``, or the weight of each class in the training loss.
        clip_norm: The largest norm of the gradient.
        accumulate: Batches to an optimizer step.
        precision: ``"auto"`` is bfloat16 on a GPU that gains from it, float32 elsewhere.
        augment: An :class:`~transferkit.Augment`, or a function of a uint8 batch (B, C, H, W) that
            draws its random numbers from torch.
        monitor: The val figure that chooses the best epoch; of equals the earliest is best.
        patience: Stop after this many epochs without a better one; needs val.
        restore_best: Leave the best epoch's weights in the model at the end. Without a val split
            there is no best epoch, and the last one's stay.
        device: By default a GPU if there is one, else where the model is.
        seed: Of the order of samples, dropout and augmentation.
        progress: True for a bar, False for nothing; None for a bar on a terminal and one plain
            line an epoch in a log file.
        cache: What the frozen part makes of each image is computed once and kept, where there is
            no augmentation: ``"memory"``, ``"disk"`` (used again by later runs), ``"auto"``
            (memory where it fits, else disk), a :class:`~transferkit.Cache` with a budget, or
            None to compute it in every epoch. The results are the same to float rounding. With
            augmentation, ``Cache(views=k)`` keeps k augmented views of each training image.
        compiled: Put the whole network through ``torch.compile`` where nothing is cached. The
            compilation takes a minute or more, which small sets do not earn back.

    Raises:
        ConfigError: An option that cannot work.

    Example:
        >>> import transferkit as tk
        >>> splits = tk.phantom_splits(sizes=(60, 30, 30), image_size=32, seed=0)
        >>> model = tk.create_classifier("transferkit/formula_resnet18", 2, image_size=32, seed=0)
        >>> tk.freeze(model)
        >>> trainer = tk.Trainer(model, lr=1e-2, scheduler="cosine", warmup=0.1)
        >>> for epoch in trainer.epochs(splits["train"], splits["val"], epochs=5):
        ...     if epoch.epoch == 3:  # or whatever else you want to look at
        ...         break
        >>> len(trainer.history)
        3

        ``trainer.fit(train, val, epochs=5)`` is the same without a loop of your own.
    """

    def __init__(
        self,
        model: Classifier,
        *,
        optimizer: OptimizerName = "adamw",
        lr: float = 1e-3,
        weight_decay: float | None = None,
        momentum: float = 0.9,
        layer_decay: float = 1.0,
        scheduler: ScheduleName | Schedule | Plateau = "cosine",
        warmup: float | int = 0.0,
        batch_size: int = 32,
        label_smoothing: float = 0.0,
        class_weights: ClassWeights | None = None,
        clip_norm: float | None = None,
        accumulate: int = 1,
        precision: Precision = "auto",
        augment: Augmentation | None = None,
        monitor: Monitor = "val_accuracy",
        patience: int | None = None,
        restore_best: bool = True,
        device: torch.device | str | None = None,
        seed: int = 0,
        progress: bool | None = None,
        cache: Cache | Where | None = "auto",
        compiled: bool = False,
    ) -> None:
        self.options = Options(
            optimizer=optimizer,
            lr=lr,
            weight_decay=weight_decay,
            momentum=momentum,
            layer_decay=layer_decay,
            scheduler=scheduler,
            warmup=warmup,
            batch_size=batch_size,
            label_smoothing=label_smoothing,
            class_weights=class_weights,
            clip_norm=clip_norm,
            accumulate=accumulate,
            precision=precision,
            augment=augment,
            monitor=monitor,
            patience=patience,
            restore_best=restore_best,
            device=device,
            seed=seed,
            progress=progress,
            cache=cache,
            compiled=compiled,
        )
        self._run = Run(model, self.options)
        self._feeds = Feeds(model, self.options, self._run.device)

    @property
    def model(self) -> Classifier:
        """The classifier."""
        return self._run.model

    @property
    def history(self) -> History:
        """The figures of the epochs so far."""
        return self._run.history

    @property
    def state(self) -> TrainState:
        """All that a resumed run needs, as it was after the last whole epoch.

        ``trainer.state.save(path)`` between epochs, and later, in a new trainer of the same model
        and options, ``trainer.resume(path)``: the run goes on as if it had never stopped, bit for
        bit on the CPU. (A run that was stopped within an epoch loses the optimizer's moments.)
        """
        return state_of(self._run)

    def resume(self, state: TrainState | str | os.PathLike[str]) -> None:
        """Go on from ``state``, or from the file that one was saved to.

        Raises:
            TrainingError: The file holds no state, or that of another model, seed or monitor.
        """
        restore(self._run, state if isinstance(state, TrainState) else TrainState.load(state))

    def fit(self, train: ImageData, val: ImageData | None = None, *, epochs: int) -> History:
        """Train for all epochs; see :meth:`epochs`.

        Returns:
            The figures of all epochs so far.
        """
        for _ in self.epochs(train, val, epochs=epochs):
            pass
        return self.history

    def epochs(
        self, train: ImageData, val: ImageData | None = None, *, epochs: int
    ) -> Iterator[EpochRecord]:
        """Train, and yield the figures of each epoch as it ends.

        However the loop ends (all epochs done, patience, ``break``, Ctrl-C), the model is left in
        eval mode with the weights of the best epoch, or of the last whole one without val.

        Args:
            train: What to train on.
            val: What to choose the best epoch on.
            epochs: Length of the whole run, which the schedule spans; epochs that this run has
                done before count.

        Raises:
            DataError: The data cannot train this model.
            ConfigError: ``epochs`` leaves nothing to do, or ``patience`` has no val to look at.
            TrainingError: Everything is frozen, a batch of one meets a batch norm, or the loss is
                not finite any more; the model then has the weights of the last whole epoch.
        """
        check_data(self.model, train, val)
        check_epochs(epochs, done=len(self.history))
        if val is None and self.options.patience is not None:
            raise ConfigError(
                "patience counts epochs without a better val figure; give a val split."
            )
        return self._epochs(train, val, epochs)

    def _epochs(
        self, train: ImageData, val: ImageData | None, epochs: int
    ) -> Iterator[EpochRecord]:
        run, within, failed = self._run, False, False
        steps = -(-batches_of(len(train), self.options.batch_size) // self.options.accumulate)
        try:
            with (
                kept_memory(run.device),
                Progress(
                    self.options.progress, epochs=epochs, steps=epochs * steps, done=run.step
                ) as progress,
            ):
                while len(run.history) < epochs and not self._out_of_patience():
                    within, started = True, time.perf_counter()
                    run.begin_epoch()
                    number = len(run.history) + 1
                    feeds = self._feeds.of(train, val, progress, epoch=number)
                    record = run.epoch(
                        *feeds, epochs=epochs, started=started, on_step=progress.step
                    )
                    within = False
                    progress.epoch(record)
                    yield record
        except TrainingError:
            failed = within
            raise
        finally:
            run.end(failed=failed, mid_epoch=within)

    def _out_of_patience(self) -> bool:
        history, patience = self.history, self.options.patience
        if patience is None or history.best_epoch is None:
            return False
        return len(history) - history.best_epoch >= patience
