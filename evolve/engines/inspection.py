"""What only transformers can tell of models, and torch of the device, before the work."""

from __future__ import annotations

from collections.abc import Mapping

from evolve.engines.custom_code import refuse_custom_code
from evolve.engines.devices import device_name
from evolve.engines.protocols import InspectModelsJob, ModelFacts, Report

__all__ = ["inspect_models"]


def inspect_models(job: InspectModelsJob, report: Report) -> Mapping[str, ModelFacts]:
    """Find the device, refuse custom code that is not trusted, and return the number of layers of each model.

    Raises:
        ModelError: A model can only be loaded by its own code, which may not run.
        ConfigError: There is no such device.
    """
    report("inspecting models", 0, len(job.models))
    device_name(job.device)
    if not job.trust_remote_code:
        refuse_custom_code(job.models)
    return {name: ModelFacts(layers=None) for name in job.models}
