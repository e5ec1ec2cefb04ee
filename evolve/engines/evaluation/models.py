"""Loads a checkpoint as an lm-eval model, and sees to it that its numbers are numbers."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from importlib.util import find_spec
from inspect import signature
from typing import Any

from evolve.engines.protocols import EvaluateJob
from evolve.errors import EvaluationError, TaskError

__all__ = ["check_model_class", "load_model", "model_arguments"]

_OURS = {
    "pretrained": "the checkpoint is given by the job",
    "device": "set `device` of the run",
    "batch_size": "set `batch_size` of the evaluation",
    "trust_remote_code": "set `trust_remote_code` of the run",
}


# Classes that are imported without their package, and raise only when a model is loaded.
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


def model_arguments(job: EvaluateJob) -> dict[str, Any]:
    """Returns the arguments of lm-eval's model class, the checkpoint among them.

    Raises:
        EvaluationError: `model_args` holds one that the job sets elsewhere.
    """
    for name, mend in _OURS.items():
        if name in job.model_args:
            raise EvaluationError(f"evaluation: model_args may not hold '{name}': {mend}")
    arguments = {"pretrained": str(job.checkpoint.absolute()), **job.model_args}
    if job.trust_remote_code:
        arguments["trust_remote_code"] = True
    return arguments


def load_model(job: EvaluateJob, device: str) -> Any:
    """Loads the checkpoint and checks its weights.

    Raises:
        EvaluationError: lm-eval has no such model class, a package for it is missing, the checkpoint cannot be loaded
            or holds a weight that is not finite.
        torch.cuda.OutOfMemoryError: As torch raises it.
    """
    from safetensors import SafetensorError

    arguments = model_arguments(job)
    try:
        lm = _model_class(job.model).create_from_arg_obj(arguments, {"batch_size": job.batch_size, "device": device})
    except ImportError as error:
        raise EvaluationError(
            f"evaluation: the model class '{job.model}' of lm-eval needs a package that is not here ({error}). "
            f"Install it (often: pip install 'lm-eval[{job.model}]') or use `model: hf`."
        ) from error
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise EvaluationError(
            f"evaluation: lm-eval cannot load {job.checkpoint} as '{job.model}' ({type(error).__name__}: {error})"
        ) from error
    _guard(lm, job)
    return lm


def check_model_class(name: str) -> None:
    """Makes sure that a model class of lm-eval can score checkpoints here; loads no model.

    Raises:
        TaskError: lm-eval has no such class, a package that it needs is missing, or it asks a server, which would not
            have the checkpoint.
    """
    from lm_eval.models.api_models import TemplateAPI

    where = f"evaluation.model = {name}"
    mend = f"install it (often: pip install 'lm-eval[{name}]'), or give hf"
    try:
        found = _model_class(name)
    except EvaluationError as error:
        raise TaskError(f"{where}: {str(error).removeprefix('evaluation: ')}") from error
    except ImportError as error:
        raise TaskError(f"{where}: this class of lm-eval needs a package that is not here ({error}); {mend}") from error
    except ValueError as error:
        raise TaskError(f"{where}: lm-eval cannot load this class ({error}); give hf") from error
    package = _PACKAGES.get(name)
    if package is not None and find_spec(package) is None:
        raise TaskError(f"{where}: this class of lm-eval needs the package {package}, which is not here; {mend}")
    if issubclass(found, TemplateAPI) or "pretrained" not in signature(found.__init__).parameters:
        raise TaskError(f"{where}: this class of lm-eval loads no checkpoint, and could not score a model; give hf")


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


def _guard(lm: Any, job: EvaluateJob) -> None:
    """Refuses weights that are not finite, and generations from logits that are not numbers.

    A model of NaN scores 0.5 on a task of two choices and 0.0 on one that it generates for, and nothing is raised.
    Log-likelihoods are checked where they are answered; a generated text tells nothing of the logits it came from.
    """
    import torch

    module = getattr(lm, "model", None)
    if not isinstance(module, torch.nn.Module):
        return
    for name, weight in module.named_parameters():
        if weight.is_floating_point() and not weight.is_meta and not bool(torch.isfinite(weight).all()):
            raise EvaluationError(f"evaluation: the weights '{name}' of {job.checkpoint} are not all finite")
    if hasattr(lm, "_model_generate"):
        lm._model_generate = _guarded(lm._model_generate, module)  # noqa: SLF001  the one place between batches


def _guarded(generate: Callable[..., Any], module: Any) -> Callable[..., Any]:
    import torch

    def run(*positional: Any, **named: Any) -> Any:
        flaws: list[Any] = []

        def look(_module: Any, _inputs: Any, output: Any) -> None:
            logits = getattr(output, "logits", None)
            if isinstance(logits, torch.Tensor):
                # Prompts are padded on the left: the last position is always a real one. No wait for the device here.
                flaw = torch.isnan(logits[:, -1]).any()
                flaws[:] = [flaw | flaws[0] if flaws else flaw]

        handle = module.register_forward_hook(look)
        try:
            texts = generate(*positional, **named)
        finally:
            handle.remove()
        if flaws and bool(flaws[0]):
            raise EvaluationError(
                "evaluation: the model generates from logits that are not numbers. Its activations overflow in this "
                "dtype (try model_args: {dtype: bfloat16} or float32), or its weights are damaged."
            )
        return texts

    return run
