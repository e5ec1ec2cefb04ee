"""The pipeline before the first event, in five stages, and the checks when a run resumes.

```
Config --locate--> Located --check--> Checked --fingerprint--> Fingerprinted --prepare--> Ready
Ready --rehearse--> the first event
```

Cheap stages come first: headers and engines are checked before weights are read. `evolve check` prepares nothing, and
rehearses what needs no preparation. A run that follows hashes no file again.
"""

from evolve.run.inputs.changes import (
    accepted_changes,
    replaced_templates,
    settings_changed,
    with_recorded_recipes,
    with_recorded_sharing,
)
from evolve.run.inputs.check import Checked, Needs, check_inputs
from evolve.run.inputs.data import refuse_changed_data
from evolve.run.inputs.fingerprint import Fingerprinted, fingerprint_inputs
from evolve.run.inputs.locate import Fetch, Located, Missing, locate_models
from evolve.run.inputs.prepare import Preparer, Ready, prepare_models
from evolve.run.inputs.rehearse import Rehearsed, rehearse_found, rehearse_ready
from evolve.run.inputs.resume import refuse_other_engines, verify_models
from evolve.run.inputs.timing import Timing, time_one_batch

__all__ = [
    "Checked",
    "Fetch",
    "Fingerprinted",
    "Located",
    "Missing",
    "Needs",
    "Preparer",
    "Ready",
    "Rehearsed",
    "Timing",
    "accepted_changes",
    "check_inputs",
    "fingerprint_inputs",
    "locate_models",
    "prepare_models",
    "refuse_changed_data",
    "refuse_other_engines",
    "rehearse_found",
    "rehearse_ready",
    "replaced_templates",
    "settings_changed",
    "time_one_batch",
    "verify_models",
    "with_recorded_recipes",
    "with_recorded_sharing",
]
