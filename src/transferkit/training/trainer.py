"""Training as a generator of epochs; ``fit`` is the short loop over it."""

from __future__ import annotations

import math
import os
import sys
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Unpack

import numpy as np
from tqdm import tqdm

from transferkit._files import make_folder
from transferkit._validation import check_whole
from transferkit.data.image_data import ImageData, require_images
from transferkit.data.preprocess import Preprocess
from transferkit.data.splits import Splits, require_splits
from transferkit.errors import ConfigError, DataError, OutputError, TrainingError
from transferkit.models.classifier import Classifier, take_classes
from transferkit.models.device import plain_context
from transferkit.models.freezing import frozen_stages
from transferkit.training.batches import Loaders, shuffled_batches
from transferkit.training.checkpoint import Run, TrainState, save_newest, states_in
from transferkit.training.history import EpochRecord, History, progress_line
from transferkit.training.optimizer import warm_up_steps
from transferkit.training.options import Options, TrainOptions, check_option_names
from transferkit.training.train_epoch import train_epoch


def labelled_splits(splits: Mapping[str, ImageData]) -> Splits:
    """The splits, which must have labelled train and val images."""
    checked = require_splits(splits)
    for name, data in zip(("train", "val"), checked.require("train", "val"), strict=True):
        data.require_labels(f"Training (the {name} split)")
    return checked


def check_data(model: Classifier, train: object, val: object) -> None:
    """See that the splits can train and validate ``model``."""
    images = require_images("The train split", train)
    val_images = images if val is None else require_images("The val split", val)
    for name, data in (("train", images), ("val", val_images)):
        if len(data) == 0:
            raise DataError(f"The {name} split is empty; training needs images in it.")
        data.require_labels(f"Training (the {name} split)")
    present = np.unique(images.require_labels("Training"))
    if len(present) < 2:
        raise DataError(
            f"All {len(images)} training images are of the class {images.classes[present[0]]!r}; "
            "a classifier needs two classes or more to learn from."
        )
    for name, data in (("train", images), ("val", val_images)):
        if data.num_classes != model.num_classes:
            raise DataError(
                f"The {name} split has {data.num_classes} classes ({', '.join(data.classes)}) and "
                f"the model has {model.num_classes} classes; build it with "
                f"create_classifier(name, {data.num_classes})."
            )


def note_reading(model: Classifier, train: ImageData) -> None:
    """Let ``model`` read files in future as those of ``train`` were read."""
    if isinstance(model.preprocess, Preprocess):
        model.preprocess.reading = train.reading


class Trainer:
    """Trains what is trainable in a classifier.

    One trainer is one run. A broken-off run goes on where it stopped when ``epochs`` or ``fit`` is
    called again with the same ``epochs``, also in another process (see :attr:`state`). Stages may
    be frozen or unfrozen between epochs: the optimizer always holds exactly the trainable
    parameters, and keeps its state of those that stay.

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
            ``"step"``, ``"exponential"`` or ``"plateau"``. In Python also a function
            ``(step, total) -> multiplier`` of optimizer steps. Default: "cosine".
        warmup: Linear warm-up: a float is a share of the run, an int a number of optimizer steps.
            Default: 0.0.
        batch_size: Batch size; a trailing batch of one image joins the one before. Default: 32.
        label_smoothing: Label smoothing, as in torch.nn.CrossEntropyLoss. Default: 0.0.
        class_weights: ``"balanced"``, or the weight of each class in the training loss, in the
            order of ``model.classes``; a model without class names takes the data's. Each sample
            counts with the weight of its class, and label smoothing within it is not weighted,
            other than in torch.nn.CrossEntropyLoss, where it draws all samples towards the heavy
            classes. Balanced, a class without training images weighs 0. Default: None.
        clip_norm: Largest norm of the gradient; larger ones are scaled down. Default: None.
        accumulate: Batches per optimizer step (gradient accumulation). Default: 1.
        precision: ``"float32"``, ``"bfloat16"`` (mixed precision), or ``"auto"``: bfloat16 on a
            GPU with tensor cores for it, float32 elsewhere. Default: "auto".
        augment: Random augmentation of the training images: an :class:`~transferkit.Augment`, a
            transform of torchvision, or any function of a uint8 batch (B, C, H, W) that draws its
            random numbers from torch. What draws once for a whole batch, as torchvision's
            transforms do, is found out by a trial and applied image by image. Default: None.
        monitor: What chooses the best epoch; of equal ones the earliest: ``"val_accuracy"``,
            ``"val_loss"``, ``"val_balanced_accuracy"``, ``"val_auroc"`` or ``"val_macro_f1"``.
            Where a class is rare, accuracy can favour a model that never predicts it, of which a
            strategy warns; see also ``class_weights``. Default: "val_accuracy".
        patience: Stop after this many epochs without a better one; needs val. Default: None.
        device: Device to train on: ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"mps"``. None is a GPU
            if there is one, else where the model is. Default: None.
        seed: Seed of the order of samples, dropout and augmentation. Default: 0.
        progress: True shows a bar, False nothing; None a bar on a terminal, and one line per epoch
            in a log file. Default: None.
        cache: Where to keep the output of the frozen layers for each image, which is computed once
            where there is no augmentation: ``"memory"``, ``"disk"`` (later runs use it again),
            ``"auto"`` (memory where it fits, else disk), or None to compute it in every epoch. The
            results are the same to float rounding. In Python also a :class:`~transferkit.Cache`:
            with augmentation, ``Cache(views=k)`` keeps k augmented views of each training image.
            Default: "auto".
        compiled: Use ``torch.compile`` where nothing is cached. Compiling takes a minute or more,
            which small datasets do not earn back. Default: False.
        checkpoint: Folder for the state after each epoch, of which the newest two are kept. Where
            it holds a state of the same run, training goes on from there: a script that was killed
            and is started again ends as if it had never stopped. Default: None.

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
        self._loaders = Loaders(model, self.options, self._run.device)

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
        return self._run.state()

    def resume(self, state: TrainState | str | os.PathLike[str]) -> None:
        """Go on from ``state``, or from the file that one was saved to.

        Raises:
            TrainingError: The file holds no state, or that of another model, other class names, or
                other options that the numbers depend on; the message names the option. Or an option
                cannot be compared: a lambda, a local function, or an object without a repr.
            ConfigError: ``state`` is neither a state nor a path.
        """
        self._run.restore(state if isinstance(state, TrainState) else TrainState.load(state))

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
        eval mode with the weights of the best epoch, or of the last whole one without val. So it
        is within the loop too: at each epoch's end the model has the best weights so far (with
        ``restore_best=False`` those of that epoch), and training goes on from the last ones.
        Weights that are written between two epochs, by ``load_state_dict`` for instance, count:
        training goes on from them.

        Args:
            train: What to train on.
            val: What to choose the best epoch on.
            epochs: Length of the whole run, which the schedule spans; epochs that this run has
                done before count.

        Raises:
            DataError: The data cannot train this model, or the number of training images is not
                that of the epochs before.
            ConfigError: ``epochs`` leaves nothing to do, ``patience`` has no val to look at or is
                used up, or the warm-up is as long as the run.
            TrainingError: Everything is frozen, a batch of one meets a batch norm, or the loss is
                not finite any more; the model then has the weights of the last whole epoch.
        """
        check_data(self.model, train, val)
        train = take_classes(self.model, train)
        note_reading(self.model, train)
        val = None if val is None else val.with_classes(self.model.classes)
        check_whole("epochs", epochs, least=1)
        if self._restored(train, val, epochs) and (
            self._run.epochs_done >= epochs or self._out_of_patience()
        ):
            return iter(())
        steps = self._checked_steps(train, val, epochs)
        return self._epochs(train, val, epochs, steps)

    def _restored(self, train: ImageData, val: ImageData | None, epochs: int) -> bool:
        """Go where the newest state of this run in the checkpoint folder was, if there is one."""
        run, folder = self._run, self._checkpoint
        if folder is None or run.epochs_done or run.facts:
            return False
        make_folder(folder)
        run.facts = {
            "epochs": epochs,
            "train images": train.fingerprint(),
            "val images": None if val is None else val.fingerprint(),
            "backbone": f"{run.model.name} with {run.model.recipe.weights}",
            "frozen stages": ", ".join(stage.name for stage in frozen_stages(run.model)),
        }
        refused = None
        for path, state in states_in(folder):
            try:
                run.restore(state)
                return True
            except TrainingError as error:
                refused = refused or TrainingError(
                    f"{error} The state is {path}; for another run give another folder as "
                    "checkpoint, or empty this one."
                )
        if refused is not None:
            raise refused
        return False

    @property
    def _checkpoint(self) -> Path | None:
        return None if self.options.checkpoint is None else Path(self.options.checkpoint)

    def _checked_steps(self, train: ImageData, val: ImageData | None, epochs: int) -> int:
        """Optimizer steps of the whole run, which has something left to do."""
        options, done = self.options, self._run.epochs_done
        if done >= epochs:
            raise ConfigError(
                f"epochs={epochs} is the length of the whole run, and this trainer has done {done} "
                "already. Ask for more to go on, or make a new Trainer to start again."
            )
        if self._run.images not in (None, len(train)):
            raise DataError(
                f"The epochs of this run had {self._run.images} training images, and the train "
                f"split has {len(train)}. The learning-rate schedule counts steps, so their number "
                "must stay the same; make a new Trainer for other images."
            )
        if val is None and options.patience is not None:
            raise ConfigError(
                "patience counts epochs without a better val figure; give a val split."
            )
        if self._out_of_patience():
            raise ConfigError(
                f"This run stopped after epoch {done}, because patience="
                f"{options.patience} epochs brought nothing better than epoch "
                f"{self.history.best_epoch}. To go on, resume from trainer.state in a Trainer with "
                "more patience."
            )
        batches = shuffled_batches(len(train), options.batch_size, seed=0, epoch=1)
        steps = epochs * math.ceil(len(batches) / options.accumulate)
        warmup = warm_up_steps(options.warmup, steps)
        if warmup >= steps:
            raise ConfigError(
                f"warmup={options.warmup} is {warmup} optimizer steps, and the whole run has "
                f"{steps}; the warm-up must end before the run does."
            )
        return steps

    def _epochs(
        self, train: ImageData, val: ImageData | None, epochs: int, steps: int
    ) -> Iterator[EpochRecord]:
        run, folder = self._run, self._checkpoint
        hide = self.options.hide_bar
        with tqdm(total=steps, initial=run.step, unit="step", leave=False, disable=hide) as bar:
            while run.epochs_done < epochs and not self._out_of_patience():
                try:
                    with plain_context(run.device):
                        record = train_epoch(
                            run, self._loaders, train, val, epochs=epochs, on_step=bar.update
                        )
                except BaseException as error:
                    run.abandon_epoch(failed=isinstance(error, TrainingError))
                    if folder is not None and not isinstance(error, Exception):
                        bar.close()
                        print(
                            f"Stopped after epoch {run.epochs_done} of {epochs}; to go on from "
                            f"there, start the same run again (checkpoint {folder}).",
                            file=sys.stderr,
                        )
                    raise
                if folder is not None:
                    self._save(folder)
                bar.set_postfix_str(progress_line(record, epochs), refresh=False)
                if bar.disable and hide is None:
                    print(progress_line(record, epochs), file=sys.stderr, flush=True)
                # the model is as it would be if the loop ended here: a caller that breaks may
                # keep this generator alive, so nothing may be left to do after the yield
                yield record

    def _save(self, folder: Path) -> None:
        try:
            save_newest(self._run.state(), folder)
        except OutputError as error:  # a full disk must not end a run that has gone well so far
            warnings.warn(f"{error} The run goes on without this checkpoint.", stacklevel=3)

    def _out_of_patience(self) -> bool:
        history, patience = self.history, self.options.patience
        if patience is None or history.best_epoch is None:
            return False
        return self._run.epochs_done - history.best_epoch >= patience
