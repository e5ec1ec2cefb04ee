"""Recipe templates of the tests."""

from __future__ import annotations

__all__ = ["OF_THREE", "SLERP"]

SLERP = """merge_method: slerp
base_model: {{ parent_1 }}
slices:
  - sources:
      - {model: {{ parent_1 }}, layer_range: [0, {{ num_layers }}]}
      - {model: {{ parent_2 }}, layer_range: [0, {{ num_layers }}]}
parameters: {t: 0.5}
dtype: {{ dtype }}
"""

OF_THREE = """
merge_method: linear
models:
- {{model: {{{{ parent_1 }}}}, parameters: {{weight: 1.0}}}}
- {{model: {{{{ parent_2 }}}}, parameters: {{weight: 1.0}}}}
- {{model: {third}, parameters: {{weight: 1.0}}}}
dtype: {{{{ dtype }}}}
"""
"""A template that names a third model itself; `str.format` puts its path in."""
