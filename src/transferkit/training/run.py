"""A training run: the model, its optimizer, the weights kept and the figures so far."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import torch
from torch.optim import Optimizer

from transferkit.models.classifier import Classifier, require_classifier
from transferkit.models.device import place
from transferkit.models.formats import fast_formats
from transferkit.training.checks import check_batch_norm
from transferkit.training.device import seeded, training_device
from transferkit.training.history import EpochRecord, History
from transferkit.training.keeper import Keeper
from transferkit.training.loader import Feed, shuffled_plan
from transferkit.training.loop import Loop, diverged
from transferkit.training.loss import Loss, class_weights
from transferkit.training.optim import build_optimizer, held_by, load_moments, moments, scale_rates
from transferkit.training.options import Options
from transferkit.training.schedules import multiplier, schedule_named, warm_up_steps


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
