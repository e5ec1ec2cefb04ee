"""The configuration of a run: its schema, its reference, and how a YAML file becomes a valid `Config`."""

from evolve.config.arguments import FILE_ARGUMENTS, HUB_ARGUMENTS, changed_arguments, path_arguments
from evolve.config.evaluation import EvaluationConfig, TaskConfig
from evolve.config.loading import dump_config, load_config
from evolve.config.metrics import METRICS, Metric
from evolve.config.schema import AdapterSource, Config, MergeConfig, ModelSource, StrategyConfig
from evolve.config.scoring import ARGUMENT_FILES, item_limit, scoring_settings

__all__ = [
    "ARGUMENT_FILES",
    "FILE_ARGUMENTS",
    "HUB_ARGUMENTS",
    "METRICS",
    "AdapterSource",
    "Config",
    "EvaluationConfig",
    "MergeConfig",
    "Metric",
    "ModelSource",
    "StrategyConfig",
    "TaskConfig",
    "changed_arguments",
    "dump_config",
    "item_limit",
    "load_config",
    "path_arguments",
    "scoring_settings",
]
