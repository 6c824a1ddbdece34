"""The constraints of `make oldest`."""

import importlib.util
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / ".ci" / "oldest.py"
pytestmark = pytest.mark.skipif(not SCRIPT.exists(), reason="only in a checkout of the repository")


def lowest(pyproject):
    spec = importlib.util.spec_from_file_location("oldest", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.lowest(pyproject)


def test_each_dependency_has_its_lowest_version_as_an_exact_pin():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    texts = [*project["dependencies"]]
    texts += [text for extra in extras.keys() - {"all", "dev", "docs"} for text in extras[extra]]
    wanted = {name.partition("[")[0] + "==" + bound for name, bound in (text.split(">=") for text in texts)}
    found = set(lowest(ROOT / "pyproject.toml"))
    assert {f"torch=={project['dependencies'][0].removeprefix('torch>=')}", "jsonargparse==4.53"} <= found
    assert {line for line in found if "==" in line} == wanted
    assert all(Requirement(line).specifier for line in found)


def test_a_dependency_without_a_lowest_version_is_refused(tmp_path):
    path = tmp_path / "pyproject.toml"
    lines = ['name = "a"', 'dependencies = ["b>=1.5,<3", "{}"]', 'optional-dependencies = {{ dev = ["c"] }}']
    text = "\n".join(["[project]", *lines])
    path.write_text(text.format("d[e]>=2.0"))
    assert {"b==1.5", "d==2.0"} <= set(lowest(path))
    path.write_text(text.format("d<2"))
    with pytest.raises(ValueError, match="d<2 must name its lowest version"):
        lowest(path)
