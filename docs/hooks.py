"""Fails the build where a public name is missing from the API reference."""

from pathlib import Path

import griffe
from mkdocs.exceptions import PluginError

ROOT = Path(__file__).parent.parent


def on_post_build(config):
    """Compares the rendered names with the `__all__` of each package."""
    library = griffe.load("tf_triplet", search_paths=[ROOT])
    packages = [library[name] for name in map(str, library.exports)]
    public = {
        f"{package.path}.{name}"
        for package in packages
        if package.is_module
        for name in package.exports
    }
    shown = set(config.plugins["mkdocstrings"].handlers.inventory)
    missing = sorted(public - shown)
    if missing:
        raise PluginError(
            "The API reference lacks these public names. Add a line "
            f"`::: <name>` to docs/api/ for each: {', '.join(missing)}"
        )
