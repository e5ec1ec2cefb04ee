"""Loads a checkpoint as an lm-eval model, and checks lm-eval's model classes without loading a model."""

from __future__ import annotations

import difflib
import re
from importlib.util import find_spec
from inspect import Parameter, signature
from typing import Any

from evolve.engines.protocols import BatchSize, EvaluateJob
from evolve.errors import EvaluationError, TaskError

__all__ = ["check_model_class", "load_model", "model_arguments"]

_SET_ELSEWHERE = {
    "pretrained": "the checkpoint is given by the job",
    "device": "set `device` of the run",
    "batch_size": "set `batch_size` of the evaluation",
    "trust_remote_code": "set `trust_remote_code` of the run",
}
"""Arguments that evolve sets itself, each with the way to set it."""

_PACKAGES = {
    "habana": "optimum",
    "ipex": "optimum",
    "mamba_ssm": "mamba_ssm",
    "megatron_lm": "megatron",
    "nemo_lm": "nemo",
    "onnxruntime": "onnxruntime",
    "onnxruntime-genai": "onnxruntime_genai",
    "openvino": "optimum",
    "sglang": "sglang",
    "trtllm": "tensorrt_llm",
}
"""Packages of the classes that can be imported without them and fail only when a model is loaded."""

_REFUSE_AUTO = {"HFMultimodalLM"}
"""Classes that inherit a constructor with `batch_size: auto` but assert that it is a number."""


def model_arguments(job: EvaluateJob) -> dict[str, Any]:
    """Return the arguments of lm-eval's model class, including the checkpoint.

    Raises:
        EvaluationError: `model_args` contains one that is set elsewhere.
    """
    for name, fix in _SET_ELSEWHERE.items():
        if name in job.model_args:
            raise EvaluationError(f"evaluation: model_args may not contain '{name}': {fix}")
    arguments = {"pretrained": str(job.checkpoint.absolute()), **job.model_args}
    if job.trust_remote_code:
        arguments["trust_remote_code"] = True
    return arguments


def load_model(job: EvaluateJob, device: str) -> Any:
    """Load the checkpoint and check that its weights are finite.

    A model of NaN weights scores 0.5 on a task of two choices and 0.0 on one that generates, and nothing is raised.

    Raises:
        EvaluationError: lm-eval has no such model class, a package for it is missing, the checkpoint cannot be loaded,
            or a weight is not finite.
        torch.cuda.OutOfMemoryError: As torch raises it.
    """
    from safetensors import SafetensorError

    arguments = model_arguments(job)
    try:
        lm = _scoring_class(job).create_from_arg_obj(arguments, {"batch_size": job.batch_size, "device": device})
    except ImportError as error:
        raise EvaluationError(
            f"evaluation: the model class '{job.model}' of lm-eval needs a package that is not installed ({error}). "
            f"Install it (often: pip install 'lm-eval[{job.model}]') or use `model: hf`."
        ) from error
    except (AssertionError, OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise EvaluationError(
            f"evaluation: lm-eval cannot load {job.checkpoint} as '{job.model}' ({type(error).__name__}: {error})"
        ) from error
    _refuse_nonfinite_weights(lm, job)
    return lm


def _scoring_class(job: EvaluateJob) -> Any:
    """Return the class that scores: for lm-eval's `hf` ours, unless prefix sharing is off."""
    found = _model_class(job.model)
    if job.prefix_sharing:
        from lm_eval.models.huggingface import HFLM

        from evolve.engines.evaluation.hf.model import SharedPrefixLM

        if found is HFLM:
            return SharedPrefixLM
    return found


def _refuse_nonfinite_weights(lm: Any, job: EvaluateJob) -> None:
    import torch

    module = getattr(lm, "model", None)
    if not isinstance(module, torch.nn.Module):
        return
    for name, weight in module.named_parameters():
        if weight.is_floating_point() and not weight.is_meta and not bool(torch.isfinite(weight).all()):
            raise EvaluationError(f"evaluation: the weights '{name}' of {job.checkpoint} are not all finite")


def check_model_class(name: str, batch_size: BatchSize) -> None:
    """Check that a model class of lm-eval can score checkpoints here with this batch size; load no model.

    Raises:
        TaskError: lm-eval has no such class, a package that it needs is not installed, it asks a server, which would
            not have the checkpoint, or it takes no batch size `auto`.
    """
    from lm_eval.models.api_models import TemplateAPI

    where = f"evaluation.model = {name}"
    fix = f"install it (often: pip install 'lm-eval[{name}]'), or set evaluation.model to hf"
    try:
        found = _model_class(name)
    except EvaluationError as error:
        raise TaskError(f"{where}: {str(error).removeprefix('evaluation: ')}") from error
    except ImportError as error:
        raise TaskError(
            f"{where}: this class of lm-eval needs a package that is not installed ({error}); {fix}"
        ) from error
    except ValueError as error:
        raise TaskError(f"{where}: lm-eval cannot import this class ({error}); set evaluation.model to hf") from error
    package = _PACKAGES.get(name)
    if package is not None and find_spec(package) is None:
        raise TaskError(f"{where}: this class of lm-eval needs the package {package}, which is not installed; {fix}")
    if issubclass(found, TemplateAPI) or "pretrained" not in signature(found.__init__).parameters:
        raise TaskError(
            f"{where}: this class of lm-eval loads no checkpoint, and could not score a model; set evaluation.model "
            "to hf"
        )
    if batch_size == "auto" and not _takes_auto(found):
        raise TaskError(
            f"evaluation.batch_size = auto: the class {name} of lm-eval takes only a number; set "
            "evaluation.batch_size to one, for example 16"
        )


def _takes_auto(found: Any) -> bool:
    """Return whether a model class takes batch size `auto`: the annotation of its constructor then allows a string."""
    if not _REFUSE_AUTO.isdisjoint(cls.__name__ for cls in found.__mro__):
        return False
    for cls in found.__mro__:
        parameters = signature(cls.__init__).parameters
        if "batch_size" in parameters:
            return re.search(r"\bstr\b", str(parameters["batch_size"].annotation)) is not None
        if all(parameter.kind is not Parameter.VAR_KEYWORD for parameter in parameters.values()):
            return False
    return False


def _model_class(name: str) -> Any:
    import lm_eval.models  # noqa: F401  fills the registry
    from lm_eval.api.registry import get_model, model_registry

    names = sorted(model_registry.keys())
    if name not in names:
        near = difflib.get_close_matches(name, names, n=3)
        raise EvaluationError(
            f"evaluation: lm-eval has no model class '{name}'. "
            + (f"Did you mean: {', '.join(near)}?" if near else f"It has: {', '.join(names)}.")
        )
    return get_model(name)
