"""The configuration of a run: its schema, its reference, and how a YAML file becomes a valid `Config`."""

from evolve.config.evaluation import EvaluationConfig, TaskConfig
from evolve.config.loading import dump_config, load_config
from evolve.config.metrics import METRICS, Metric
from evolve.config.schema import AdapterSource, Config, MergeConfig, ModelSource, StrategyConfig
from evolve.config.scoring import scoring_settings

__all__ = [
    "METRICS",
    "AdapterSource",
    "Config",
    "EvaluationConfig",
    "MergeConfig",
    "Metric",
    "ModelSource",
    "StrategyConfig",
    "TaskConfig",
    "dump_config",
    "load_config",
    "scoring_settings",
]
