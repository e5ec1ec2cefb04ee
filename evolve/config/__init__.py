"""The configuration of a run: its schema, and the way from a YAML file to a valid `Config`."""

from evolve.config.loading import dump_config, load_config, parse_config
from evolve.config.schema import (
    AdapterSource,
    Config,
    EvaluationConfig,
    MergeConfig,
    ModelSource,
    StrategyConfig,
    TaskConfig,
)

__all__ = [
    "AdapterSource",
    "Config",
    "EvaluationConfig",
    "MergeConfig",
    "ModelSource",
    "StrategyConfig",
    "TaskConfig",
    "dump_config",
    "load_config",
    "parse_config",
]
