"""Print constraints that hold every dependency of ``pyproject.toml`` to the lowest version that it names.

`make oldest` runs the tests with them. The tools of the extras `dev` and `docs` may be of any version.
"""

import tomllib
from pathlib import Path

from packaging.requirements import Requirement


def lowest(pyproject: Path) -> list[str]:
    """One line ``name==version`` for each dependency and each package of the extras but `dev` and `docs`.

    Raises:
        ValueError: a dependency without a lowest version.
    """
    project = tomllib.loads(pyproject.read_text())["project"]
    lines = list(project["dependencies"])
    for extra, names in project["optional-dependencies"].items():
        lines += [] if extra in ("dev", "docs") else names
    # Of what these need, what later versions broke: matplotlib 3.9 uses names that pyparsing 3.3 deprecates.
    pinned = {"pyparsing<3.3"}
    for requirement in map(Requirement, lines):
        bounds = [bound.version for bound in requirement.specifier if bound.operator == ">="]
        if requirement.name == project["name"]:
            continue
        if not bounds:
            raise ValueError(f"{requirement} must name its lowest version")
        pinned.add(f"{requirement.name}=={bounds[0]}")
    return sorted(pinned, key=str.lower)


if __name__ == "__main__":
    print("\n".join(lowest(Path(__file__).parents[1] / "pyproject.toml")))
