from . import plots
from ._version import __version__
from .audit.finding import AuditConfig, Finding
from .audit.gap import GapReport
from .audit.report import AuditError, AuditReport
from .backbones.catalog import get_backbone_spec, list_backbones, register_backbone
from .backbones.spec import BackboneSpec, LicenseWarning, WeightsSpec
from .backbones.table import BackboneTable, backbone_table
from .data.augment import Augment
from .data.disk_cache import CacheWarning
from .data.image_data import ImageData
from .data.image_inputs import load_images
from .data.load import load_splits
from .data.phantom import phantom_splits
from .data.phantom_imaging import PhantomSite
from .data.splits import Splits, resplit
from .errors import (
    ConfigError,
    DataError,
    MissingDependencyError,
    OutputError,
    TrainingError,
    TransferkitError,
    UnknownNameError,
    WeightsError,
)
from .metrics.evaluation import Evaluation, Predictions
from .models.classifier import Classifier, create_classifier
from .models.features import Features, extract_features
from .models.freezing import freeze, param_groups, stages, summary, unfreeze
from .models.prefix_cache import Cache
from .models.save_load import load_classifier, save_classifier
from .selection.ranking import Ranking
from .training.checkpoint import TrainState
from .training.evaluate import evaluate, predict
from .training.history import EpochRecord, History
from .training.options import TrainOptions
from .training.trainer import Trainer
from .workflows.advise import Advice, advise
from .workflows.audit import audit_splits, explain_gap
from .workflows.compare import compare
from .workflows.comparison import Comparison
from .workflows.interpolate import Interpolation, interpolate
from .workflows.lr_find import LRFind, lr_find
from .workflows.rank import rank_backbones
from .workflows.result import Result
from .workflows.strategies import (
    fine_tune,
    gradual_unfreeze,
    linear_probe,
    lp_ft,
    run,
)
from .workflows.strategy import Strategy

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
    "TrainOptions",
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
    "load_images",
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
    "run",
    "save_classifier",
    "stages",
    "summary",
    "unfreeze",
]
