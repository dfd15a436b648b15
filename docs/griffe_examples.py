"""Shows the `Example:` of a docstring as code in the API reference.

griffe knows a section only as `Examples:` with an indented body. The
docstrings follow Keras: `Example:`, and the lines of code may start at the
margin of the docstring.
"""

from __future__ import annotations

import re
from typing import Any

import griffe


class ExampleSections(griffe.Extension):
    """Renames and indents the examples of every docstring."""

    def on_instance(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Changes the docstring of one object, before it is parsed.

        Args:
            obj: A module, class, function or attribute.
            **kwargs: What else griffe passes.
        """
        if obj.docstring is not None:
            obj.docstring.value = as_sections(obj.docstring.value)


def as_sections(text: str) -> str:
    """Returns a docstring with `Examples:` sections.

    Args:
        text: The docstring, without its common indentation.
    """
    lines, inside = [], False
    for line in text.split("\n"):
        if line == "Example:":
            lines.append("Examples:")
            inside = True
            continue
        if inside and re.match(r"[A-Z][a-z]+:$", line):
            inside = False  # The next section.
        # In an indented body this only indents once more.
        lines.append(f"    {line}" if inside and line.strip() else line)
    return "\n".join(lines)
