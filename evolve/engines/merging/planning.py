"""Plans of merges: check with headers and JSON files whether mergekit can carry out a recipe."""

from __future__ import annotations

from evolve.engines.checkpoints import tokenizer_files
from evolve.engines.merging._failures import check_absolute, failures
from evolve.engines.merging.checking import check_recipe
from evolve.engines.protocols import FilterMatch, PlanMergesJob, Report
from evolve.errors import MergeError, RecipeError

__all__ = ["plan_merges"]


def plan_merges(job: PlanMergesJob, report: Report) -> dict[str, tuple[FilterMatch, ...]]:
    """Check recipes and plan their merges without reading weights; see `MergePlanner`.

    A planned merge is carried out on shapes, and transformers loads its outcome. So these are found in about a second
    per merge: architectures and variants that mergekit cannot read, models of unequal depth or shape, tokens without a
    row in the embeddings, quantized models, and children that would not be complete.

    Raises:
        RecipeError: mergekit cannot carry out one of the merges.
    """
    matches: dict[str, tuple[FilterMatch, ...]] = {}
    total, done = sum(map(len, job.recipes.values())), 0
    for name, recipes in job.recipes.items():
        for recipe in recipes:
            report(f"checking recipe {name}", done, total)
            try:
                check_recipe(recipe)
                found = _plan(recipe, trust_remote_code=job.trust_remote_code) if job.plan else ()
            except (MergeError, RecipeError) as error:
                raise RecipeError(f"merge.recipe = {name}: {error}") from error
            matches.setdefault(name, found)
            done += 1
    return matches


def _plan(recipe: str, *, trust_remote_code: bool) -> tuple[FilterMatch, ...]:
    """Carry out a merge on shapes; raise MergeError if it would fail."""
    from evolve.engines.generators import preserved_generators
    from evolve.engines.merging import _mergekit
    from evolve.engines.merging._dry_run import dry_run
    from evolve.engines.quiet import quiet_transformers

    configuration = _mergekit.parse(recipe)
    folders = configuration.folders
    check_absolute(folders)
    words = f"mergekit cannot merge {' and '.join(folder.name for folder in folders)} by this recipe"
    lacking = next((folder for folder in folders if not tokenizer_files(folder)), None)
    aligns = configuration.aligns_tokens
    try:
        with quiet_transformers(), preserved_generators(), failures(words):
            return dry_run(configuration, trust_remote_code=trust_remote_code)
    except MergeError as error:
        if lacking is None or not aligns:
            raise
        raise MergeError(
            f"{lacking} has no tokenizer files, such as tokenizer.json; copy those of the model that it was tuned from"
        ) from error
