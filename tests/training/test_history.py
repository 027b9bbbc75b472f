from __future__ import annotations

import csv
import json

import pytest

from transferkit.errors import DataError, OutputError
from transferkit.training.history import EpochRecord, History


def record(epoch, val_loss=None, val_accuracy=None, train_loss=1.0, train_accuracy=0.5):
    return EpochRecord(
        epoch, 10 * epoch, 0.1, train_loss, train_accuracy, val_loss, val_accuracy, 2.0
    )


RUN = History(
    (
        record(1, 0.9, 0.80, train_loss=1.2, train_accuracy=0.7),
        record(2, 0.4, 0.95, train_loss=0.8, train_accuracy=0.99),
        record(3, 0.3, 0.95, train_loss=0.5, train_accuracy=0.98),
        record(4, 0.7, 0.90, train_loss=0.25, train_accuracy=0.97),
    )
)


def test_the_summary_row_of_the_course():
    summary = RUN.summary()
    assert summary.final_train_loss == 0.25
    assert summary.best_train_accuracy == 0.99
    assert summary.final_val_loss == 0.7
    assert summary.best_val_accuracy == 0.95
    assert (summary.best_val_loss, summary.best_val_loss_epoch) == (0.3, 3)
    assert summary.seconds == 8.0
    assert "0.3000 (3)" in str(summary)


def test_the_best_epoch_is_the_earliest_of_equals():
    assert RUN.best_epoch == 2
    assert History(RUN.records, monitor="val_loss").best_epoch == 3


def test_without_val_there_is_no_best_epoch():
    history = History((record(1), record(2)))
    assert history.best_epoch is None
    summary = history.summary()
    assert summary.best_val_loss is None
    assert summary.best_val_accuracy is None
    assert "-" in str(summary)


def test_an_empty_history():
    assert len(History()) == 0
    assert History().best_epoch is None
    assert History().to_dict()["summary"] is None
    with pytest.raises(DataError, match="empty"):
        History().summary()


def test_csv_reads_back(tmp_path):
    path = tmp_path / "history.csv"
    RUN.to_csv(path)
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["val_loss"]) for row in rows] == [0.9, 0.4, 0.3, 0.7]
    assert list(rows[0]) == list(EpochRecord.__slots__)
    assert [p.name for p in tmp_path.iterdir()] == ["history.csv"]


def test_csv_into_a_missing_folder(tmp_path):
    with pytest.raises(OutputError, match=r"history\.csv"):
        RUN.to_csv(tmp_path / "nowhere" / "history.csv")


def test_dict_is_ready_for_json():
    again = json.loads(json.dumps(RUN.to_dict()))
    assert again["best_epoch"] == 2
    assert again["records"][2]["val_loss"] == 0.3
    assert again["summary"]["best_val_loss_epoch"] == 3


def test_the_table_marks_the_best_epoch():
    lines = str(RUN).splitlines()
    assert lines[0].split()[0] == "epoch"
    assert [i for i, line in enumerate(lines[2:], 1) if line.endswith("best")] == [2]
