import subprocess
import sys

import pytest

import evolve.views


def test_every_exported_name_exists():
    assert evolve.views.__all__ == sorted(evolve.views.__all__)
    for name in evolve.views.__all__:
        assert callable(getattr(evolve.views, name))


def test_another_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = evolve.views.nothing


def test_the_package_is_cheap_and_no_view_needs_torch():
    code = (
        "import sys, evolve.views\n"
        "assert not {'rich', 'networkx', 'pydantic'} & set(sys.modules)\n"
        "for name in evolve.views.__all__: getattr(evolve.views, name)\n"
        "assert not {'torch', 'transformers', 'mergekit', 'lm_eval'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
