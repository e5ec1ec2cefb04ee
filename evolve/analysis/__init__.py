"""Analysis of family trees: differences with standard errors, states, effort, estimates, comparability.

Pure functions: no disk, no clock, no torch. Scores and differences are in 0..1, times in seconds.
"""

from evolve.analysis.comparability import differing_settings
from evolve.analysis.differences import Difference, Lead, better_parent_difference, gain_of, lead
from evolve.analysis.effort import Effort, Estimate, effort, remaining
from evolve.analysis.sampling import ItemEstimate, ItemSample
from evolve.analysis.standing import STATES, State, best_by_generation, by_state, generations, state_of, top_kinship

__all__ = [
    "STATES",
    "Difference",
    "Effort",
    "Estimate",
    "ItemEstimate",
    "ItemSample",
    "Lead",
    "State",
    "best_by_generation",
    "better_parent_difference",
    "by_state",
    "differing_settings",
    "effort",
    "gain_of",
    "generations",
    "lead",
    "remaining",
    "state_of",
    "top_kinship",
]
