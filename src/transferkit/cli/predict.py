"""``transferkit predict``: a saved classifier on image files, as CSV."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import click

from transferkit.cli.options import batch_size_option, device_option


@click.command("predict")
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("images", nargs=-1, required=True, type=click.Path(path_type=Path))
@batch_size_option
@device_option
def predict_command(
    model: Path, images: tuple[Path, ...], batch_size: int, device: str | None
) -> None:
    """Predict the class of IMAGES (files or folders) with MODEL, a classifier.safetensors.

    Prints CSV: the file, the predicted class, and the probability of each class.
    """
    from transferkit.data.images import load_images
    from transferkit.models.persistence import load_classifier
    from transferkit.training.evaluate import predict

    classifier = load_classifier(model, device=device)
    data = load_images(images, image_size=classifier.preprocess.image_size)
    predictions = predict(classifier, data, batch_size=batch_size, device=device)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["image", "predicted", *(f"p_{name}" for name in predictions.classes)])
    rows = zip(data.names, predictions.predicted, predictions.probabilities, strict=True)
    for name, predicted, probabilities in rows:
        cells = (f"{p:.6f}" for p in probabilities)
        writer.writerow([name, predictions.classes[predicted], *cells])
    click.echo(text.getvalue(), nl=False)
