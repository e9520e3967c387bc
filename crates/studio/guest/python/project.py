"""Prints what a pyproject.toml says that the build needs, as JSON: {"dependencies": […], "entry": "…" or null}."""

import json
import sys

try:
    import tomllib
except ImportError:  # before Python 3.11
    from pip._vendor import tomli as tomllib

with open(sys.argv[1], "rb") as file:
    project = tomllib.load(file)
json.dump(
    {
        "dependencies": project.get("project", {}).get("dependencies", []),
        "entry": project.get("tool", {}).get("firm", {}).get("entry"),
    },
    sys.stdout,
)
