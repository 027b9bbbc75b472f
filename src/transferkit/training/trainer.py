"""Training as a generator of epochs; ``fit`` is the short loop over it."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator
from typing import Unpack

import numpy as np
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer

from transferkit._typing import Int64Array
from transferkit.data.image_data import ImageData, require_images
from transferkit.errors import ConfigError, DataError, TrainingError
from transferkit.models.classifier import Classifier, require_classifier
from transferkit.models.device import kept_memory, place, seeded, training_device
from transferkit.models.freezing import stages, unfreeze
from transferkit.models.memory_format import fast_formats
from transferkit.training.batches import Feed, Feeds, batches_of, shuffled_plan
from transferkit.training.checkpoint import Keeper, TrainState, Weights
from transferkit.training.history import EpochRecord, History
from transferkit.training.optimizer import (
    build_optimizer,
    held_by,
    load_moments,
    moments,
    scale_rates,
)
from transferkit.training.options import Options, TrainOptions, check_option_names
from transferkit.training.progress import Progress
from transferkit.training.schedules import multiplier, schedule_named, warm_up_steps
from transferkit.training.train_epoch import Loop, Loss, class_weights, diverged


def check_data(model: Classifier, train: object, val: object) -> None:
    """See that the splits can train and judge ``model``.

    Raises:
        DataError: A split is none, empty or unlabelled, ``train`` shows one class only, or the
            classes are not those of the model.
    """
    images = require_images("The train split", train)
    judged = images if val is None else require_images("The val split", val)
    for name, data in (("train", images), ("val", judged)):
        if len(data) == 0:
            raise DataError(f"The {name} split is empty; training needs images in it.")
        data.require_labels(f"Training (the {name} split)")
        if data.num_classes != model.num_classes:
            raise DataError(
                f"The {name} split has {data.num_classes} classes ({', '.join(data.classes)}) and "
                f"the model {model.num_classes}; build it with create_classifier(name, "
                f"{data.num_classes})."
            )
    present = np.unique(images.require_labels("Training"))
    if len(present) < 2:
        raise DataError(
            f"All {len(images)} training images are of the class {images.classes[present[0]]!r}; "
            "a classifier needs two classes or more to learn from."
        )


def check_epochs(epochs: object, done: int) -> None:
    """See that there is something left to train.

    Raises:
        ConfigError: ``epochs`` is not a count, or all of them are done.
    """
    if isinstance(epochs, bool) or not isinstance(epochs, int) or epochs < 1:
        raise ConfigError(f"epochs must be a whole number, 1 or more, got {epochs!r}.")
    if done >= epochs:
        raise ConfigError(
            f"epochs={epochs} is the length of the whole run, and this trainer has done {done} "
            "already. Ask for more to go on, or make a new Trainer to start again."
        )


def check_batch_norm(model: nn.Module, plan: list[Int64Array]) -> None:
    """See that no batch of one image meets a batch norm that trains; ``model`` is in train mode.

    Raises:
        TrainingError: One would.
    """
    if min(map(len, plan)) > 1:
        return
    for name, module in model.named_modules():
        if isinstance(module, _BatchNorm) and module.training:
            raise TrainingError(
                f"A batch of one image cannot train the batch norm {name!r}: it has no spread. "
                "Give more images, a batch_size of 2 or more, or freeze the stage."
            )


class Run:
    """What a trainer works on; it stands between two epochs, except within :meth:`epoch`."""

    def __init__(self, model: Classifier, options: Options) -> None:
        """Place the model on the device of the run."""
        self.model = require_classifier(model)
        self.options = options
        self.device = place(model, training_device(options.device, model))
        self.history = History(monitor=options.monitor)
        self.step = 0
        self._ended = False
        self.optimizer: Optimizer | None = None
        self.keeper: Keeper | None = None

    def begin_epoch(self) -> None:
        """Bring model, optimizer and kept weights to the last whole epoch, as frozen as now."""
        self.model.train()
        if self.keeper is None:
            self.keeper = Keeper(self.model)
        self.keeper.follow(self.model)
        if self._ended:
            self.keeper.put_back(self.keeper.last)
            self._ended = False
        held = self.optimizer
        if held is None or held_by(held) != {p for p in self.model.parameters() if p.requires_grad}:
            self.optimizer = build_optimizer(self.model, self.options)
            if held is not None:
                load_moments(self.optimizer, self.model, moments(held, self.model))

    def epoch(
        self,
        train: Feed,
        val: Feed | None,
        *,
        epochs: int,
        started: float,
        on_step: Callable[[], None],
    ) -> EpochRecord:
        """Train for one epoch and judge it on val; :meth:`begin_epoch` comes first.

        Args:
            train: The training split.
            val: The val split, if there is one.
            epochs: Length of the whole run.
            started: When the epoch began, by ``time.perf_counter()``.
            on_step: Called at each optimizer step.

        Raises:
            TrainingError: A loss or a weight is not a finite number any more.
        """
        number = len(self.history) + 1
        options, optimizer = self.options, self.optimizer
        assert optimizer is not None  # begin_epoch made it
        plan = shuffled_plan(len(train.inputs), options.batch_size, seed=options.seed, epoch=number)
        check_batch_norm(self.model, plan)
        loop = self._loop(train)
        rate = 0.0
        total = epochs * len(loop.steps(plan))

        def before_step() -> None:
            nonlocal rate
            rate = scale_rates(optimizer, self._multiplier(total))
            self.step += 1
            on_step()

        with fast_formats(self.model):
            with seeded((options.seed, number, 1), self.device):
                loss, accuracy = loop.train(
                    train, plan, optimizer, epoch=number, before_step=before_step
                )
            self.model.eval()
            self._check_weights(number)
            judged = None if val is None else loop.judge(val)
        if judged is not None and not math.isfinite(judged[0]):
            raise diverged(f"The val loss became {judged[0]} after epoch {number}.")
        val_loss, val_accuracy = judged or (None, None)
        seconds = time.perf_counter() - started
        record = EpochRecord(
            number, self.step, rate, loss, accuracy, val_loss, val_accuracy, seconds
        )
        self._take(record)
        return record

    def _take(self, record: EpochRecord) -> None:
        assert self.keeper is not None  # begin_epoch made it
        self.history = History((*self.history.records, record), self.history.monitor)
        self.keeper.keep(best=self.history.best_epoch == record.epoch)

    def _loop(self, train: Feed) -> Loop:
        options = self.options
        weights = class_weights(options.class_weights, train.labels, self.model.num_classes)
        return Loop(
            Loss(weights, options.label_smoothing),
            self.device,
            accumulate=options.accumulate,
            clip_norm=options.clip_norm,
            precision=options.precision,
        )

    def _multiplier(self, total: int) -> float:
        options = self.options
        records = self.history.records
        judged = all(record.val_loss is not None for record in records)
        monitor = options.monitor if judged else "train_loss"
        return multiplier(
            schedule_named(options.scheduler),
            self.step,
            total,
            warmup=warm_up_steps(options.warmup, total),
            figures=[getattr(record, monitor) for record in records],
            maximize=monitor == "val_accuracy",
        )

    def _check_weights(self, number: int) -> None:
        tensors: list[torch.Tensor] = [p for p in self.model.parameters() if p.requires_grad]
        norms = torch.stack([norm.float() for norm in torch._foreach_norm(tensors)])
        if not torch.isfinite(norms).all():
            raise diverged(f"A weight became infinite or NaN in epoch {number}.")

    def end(self, *, failed: bool, mid_epoch: bool) -> None:
        """Leave the model with the weights it should have, in eval mode.

        These are the best epoch's, where there is one and ``restore_best`` says so; else, and
        where the run ``failed``, the last whole epoch's. An optimizer that was stopped within an
        epoch belongs to no epoch and is dropped.
        """
        self.model.eval()
        if mid_epoch:
            self.optimizer = None
            self.step = self.history.records[-1].step if self.history.records else 0
        if self.keeper is not None:
            best = self.keeper.best if self.options.restore_best and not failed else {}
            self.keeper.put_back(best or self.keeper.last)
            self._ended = True


def state_of(run: Run) -> TrainState:
    """Copy all that a resumed run needs, as it was after the last whole epoch."""
    kept = run.keeper
    weights = run.model.state_dict() | ({} if kept is None else kept.last)
    learnt = {} if run.optimizer is None else moments(run.optimizer, run.model)
    return TrainState(
        step=run.step,
        seed=run.options.seed,
        trainable=trainable(run.model),
        weights=_on_cpu(weights),
        best={} if kept is None else _on_cpu(kept.best),
        moments={name: _on_cpu(values) for name, values in learnt.items()},
        history=run.history,
    )


def restore(run: Run, state: TrainState) -> None:
    """Put ``run`` where ``state`` was: weights, freezing, optimizer, kept weights and figures.

    Raises:
        TrainingError: The state is of another model, or was made with another seed or monitor.
    """
    _check_same("seed", run.options.seed, state.seed)
    _check_same("monitor", run.options.monitor, state.history.monitor)
    try:
        run.model.load_state_dict(state.weights)
    except RuntimeError as error:
        raise TrainingError(f"The training state is of another model: {error}") from error
    refreeze(run.model, state.trainable)
    run.model.train()
    run.keeper = Keeper(run.model)
    run.keeper.best = {name: value.to(run.device, copy=True) for name, value in state.best.items()}
    run.optimizer = build_optimizer(run.model, run.options)
    load_moments(run.optimizer, run.model, state.moments)
    run.model.eval()
    run.history, run.step = state.history, state.step


def trainable(model: nn.Module) -> tuple[str, ...]:
    """Names of the trainable parameters."""
    return tuple(name for name, p in model.named_parameters() if p.requires_grad)


def refreeze(model: nn.Module, names: tuple[str, ...]) -> None:
    """Freeze stages until the trainable parameters are ``names``.

    Raises:
        TrainingError: No boundary between stages gives them.
    """
    if trainable(model) == names:
        return
    for stage in stages(model):
        unfreeze(model, upto=stage)
        if trainable(model) == names:
            return
    raise TrainingError(
        "The training state has other trainable parameters than this model can have by "
        "freezing stages. Freeze the same parameters as then, and give the state again."
    )


def _on_cpu(tensors: Weights) -> Weights:
    copies = {name: value.detach().to("cpu", copy=True) for name, value in tensors.items()}
    return {name: value.contiguous() for name, value in copies.items()}


def _check_same(option: str, ours: object, theirs: object) -> None:
    if ours != theirs:
        raise TrainingError(
            f"The training state was made with {option}={theirs!r} and this trainer with "
            f"{option}={ours!r}; make the trainer with {option}={theirs!r}."
        )


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
        lr: Learning rate of the head. Default: 0.001.
        restore_best: Leave the best epoch's weights in the model at the end. Without a val split
            there is no best epoch, and the last one's stay. Default: True.
        optimizer: ``"adamw"``, ``"adam"`` or ``"sgd"``. Default: "adamw".
        weight_decay: Weight decay of matrices and kernels; biases and normalisation layers have
            none. None is 0.01 for AdamW and 0 for the others. Default: None.
        momentum: Momentum of SGD. Default: 0.9.
        layer_decay: Factor on the learning rate from each stage to the one before it, towards the
            input (layer-wise learning rates). Default: 1.0.
        scheduler: Learning-rate schedule: ``"constant"``, ``"cosine"``, ``"one_cycle"``,
            ``"step"``, ``"exponential"``, ``"plateau"``, or a function ``(step, total) ->
            multiplier`` of optimizer steps. Default: "cosine".
        warmup: Linear warm-up: a float is a share of the run, an int a number of optimizer steps.
            Default: 0.0.
        batch_size: Batch size; a trailing batch of one image joins the one before. Default: 32.
        label_smoothing: Label smoothing, as in torch.nn.CrossEntropyLoss. Default: 0.0.
        class_weights: ``"balanced"``, or the weight of each class in the training loss.
            Default: None.
        clip_norm: Largest norm of the gradient; larger ones are scaled down. Default: None.
        accumulate: Batches per optimizer step (gradient accumulation). Default: 1.
        precision: ``"float32"``, ``"bfloat16"`` (mixed precision), or ``"auto"``: bfloat16 on a
            GPU with tensor cores for it, float32 elsewhere. Default: "auto".
        augment: Random augmentation of the training images: an :class:`~transferkit.Augment`, or a
            function of a uint8 batch (B, C, H, W) that draws its random numbers from torch.
            Default: None.
        monitor: ``"val_accuracy"`` or ``"val_loss"``: chooses the best epoch; of equal ones the
            earliest. Default: "val_accuracy".
        patience: Stop after this many epochs without a better one; needs val. Default: None.
        device: Device to train on: ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"mps"``. None is a GPU
            if there is one, else where the model is. Default: None.
        seed: Seed of the order of samples, dropout and augmentation. Default: 0.
        progress: True shows a bar, False nothing; None a bar on a terminal, and one line per epoch
            in a log file. Default: None.
        cache: Where to keep the output of the frozen layers for each image, which is computed once
            where there is no augmentation: ``"memory"``, ``"disk"`` (later runs use it again),
            ``"auto"`` (memory where it fits, else disk), a :class:`~transferkit.Cache`, or None to
            compute it in every epoch. The results are the same to float rounding. With
            augmentation, ``Cache(views=k)`` keeps k augmented views of each training image.
            Default: "auto".
        compiled: Use ``torch.compile`` where nothing is cached. Compiling takes a minute or more,
            which small datasets do not earn back. Default: False.

    Raises:
        ConfigError: An option has a value that cannot work.
        UnknownNameError: There is no such option; the message gives the nearest ones.

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
        lr: float = 1e-3,
        restore_best: bool = True,
        **options: Unpack[TrainOptions],
    ) -> None:
        check_option_names(options)
        self.options = Options(lr=lr, restore_best=restore_best, **options)
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
