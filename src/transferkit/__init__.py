"""transferkit: transfer learning for image classification.

Everything public is a name of this module, listed in ``__all__`` and loaded on first use, so that
``import transferkit`` stays fast and does not import torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from transferkit._version import __version__

if TYPE_CHECKING:
    from transferkit import plots
    from transferkit.audit.finding import AuditConfig, Finding
    from transferkit.audit.gap import GapReport
    from transferkit.audit.report import AuditError, AuditReport
    from transferkit.backbones.catalog import get_backbone_spec, list_backbones, register_backbone
    from transferkit.backbones.listing import BackboneTable, backbone_table
    from transferkit.backbones.spec import BackboneSpec, LicenseWarning, WeightsSpec
    from transferkit.data.arraystore import CacheWarning
    from transferkit.data.augment import Augment
    from transferkit.data.dataset import ImageData, Splits
    from transferkit.data.imaging import PhantomSite
    from transferkit.data.load import load_splits
    from transferkit.data.phantom import phantom_splits
    from transferkit.data.splits import resplit
    from transferkit.errors import (
        ConfigError,
        DataError,
        MissingDependencyError,
        OutputError,
        TrainingError,
        TransferkitError,
        UnknownNameError,
        WeightsError,
    )
    from transferkit.features.extract import Features, extract_features
    from transferkit.metrics.evaluation import Evaluation, Predictions
    from transferkit.models.caching import Cache
    from transferkit.models.classifier import Classifier, create_classifier
    from transferkit.models.freezing import freeze, stages, unfreeze
    from transferkit.models.groups import param_groups
    from transferkit.models.persistence import load_classifier, save_classifier
    from transferkit.models.summary import summary
    from transferkit.training.evaluate import evaluate, predict
    from transferkit.training.history import EpochRecord, History
    from transferkit.training.state import TrainState
    from transferkit.training.trainer import Trainer
    from transferkit.workflows.advise import Advice, advise
    from transferkit.workflows.audit import audit_splits, explain_gap
    from transferkit.workflows.compare import compare
    from transferkit.workflows.comparison import Comparison
    from transferkit.workflows.gradual import gradual_unfreeze
    from transferkit.workflows.interpolate import Interpolation, interpolate
    from transferkit.workflows.lp_ft import lp_ft
    from transferkit.workflows.lr_find import LRFind, lr_find
    from transferkit.workflows.probe import linear_probe
    from transferkit.workflows.rank import Ranking, rank_backbones
    from transferkit.workflows.result import Result
    from transferkit.workflows.strategy import Strategy
    from transferkit.workflows.tune import fine_tune

__all__ = [
    "Advice",
    "AuditConfig",
    "AuditError",
    "AuditReport",
    "Augment",
    "BackboneSpec",
    "BackboneTable",
    "Cache",
    "CacheWarning",
    "Classifier",
    "Comparison",
    "ConfigError",
    "DataError",
    "EpochRecord",
    "Evaluation",
    "Features",
    "Finding",
    "GapReport",
    "History",
    "ImageData",
    "Interpolation",
    "LRFind",
    "LicenseWarning",
    "MissingDependencyError",
    "OutputError",
    "PhantomSite",
    "Predictions",
    "Ranking",
    "Result",
    "Splits",
    "Strategy",
    "TrainState",
    "Trainer",
    "TrainingError",
    "TransferkitError",
    "UnknownNameError",
    "WeightsError",
    "WeightsSpec",
    "__version__",
    "advise",
    "audit_splits",
    "backbone_table",
    "compare",
    "create_classifier",
    "evaluate",
    "explain_gap",
    "extract_features",
    "fine_tune",
    "freeze",
    "get_backbone_spec",
    "gradual_unfreeze",
    "interpolate",
    "linear_probe",
    "list_backbones",
    "load_classifier",
    "load_splits",
    "lp_ft",
    "lr_find",
    "param_groups",
    "phantom_splits",
    "plots",
    "predict",
    "rank_backbones",
    "register_backbone",
    "resplit",
    "save_classifier",
    "stages",
    "summary",
    "unfreeze",
]

# Where each public name lives: the import happens when the name is first used.
_HOMES = {
    "audit.finding": (
        "AuditConfig",
        "Finding",
    ),
    "audit.gap": ("GapReport",),
    "audit.report": (
        "AuditError",
        "AuditReport",
    ),
    "backbones.catalog": (
        "get_backbone_spec",
        "list_backbones",
        "register_backbone",
    ),
    "backbones.listing": (
        "BackboneTable",
        "backbone_table",
    ),
    "backbones.spec": (
        "BackboneSpec",
        "LicenseWarning",
        "WeightsSpec",
    ),
    "data.arraystore": ("CacheWarning",),
    "data.augment": ("Augment",),
    "data.dataset": (
        "ImageData",
        "Splits",
    ),
    "data.imaging": ("PhantomSite",),
    "data.load": ("load_splits",),
    "data.phantom": ("phantom_splits",),
    "data.splits": ("resplit",),
    "errors": (
        "ConfigError",
        "DataError",
        "MissingDependencyError",
        "OutputError",
        "TrainingError",
        "TransferkitError",
        "UnknownNameError",
        "WeightsError",
    ),
    "features.extract": (
        "Features",
        "extract_features",
    ),
    "metrics.evaluation": (
        "Evaluation",
        "Predictions",
    ),
    "models.caching": ("Cache",),
    "models.classifier": (
        "Classifier",
        "create_classifier",
    ),
    "models.freezing": (
        "freeze",
        "stages",
        "unfreeze",
    ),
    "models.groups": ("param_groups",),
    "models.persistence": (
        "load_classifier",
        "save_classifier",
    ),
    "models.summary": ("summary",),
    "training.evaluate": (
        "evaluate",
        "predict",
    ),
    "training.history": (
        "EpochRecord",
        "History",
    ),
    "training.state": ("TrainState",),
    "training.trainer": ("Trainer",),
    "workflows.advise": (
        "Advice",
        "advise",
    ),
    "workflows.audit": (
        "audit_splits",
        "explain_gap",
    ),
    "workflows.compare": ("compare",),
    "workflows.comparison": ("Comparison",),
    "workflows.gradual": ("gradual_unfreeze",),
    "workflows.interpolate": (
        "Interpolation",
        "interpolate",
    ),
    "workflows.lp_ft": ("lp_ft",),
    "workflows.lr_find": (
        "LRFind",
        "lr_find",
    ),
    "workflows.probe": ("linear_probe",),
    "workflows.rank": (
        "Ranking",
        "rank_backbones",
    ),
    "workflows.result": ("Result",),
    "workflows.strategy": ("Strategy",),
    "workflows.tune": ("fine_tune",),
}
_MODULE_OF = {name: f"transferkit.{home}" for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> object:
    if name == "plots":
        return import_module("transferkit.plots")
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'transferkit' has no attribute {name!r}")
    value: object = getattr(import_module(_MODULE_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
