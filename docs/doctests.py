"""Shows the interactive examples of docstrings as code."""

import griffe


class Doctests(griffe.Extension):
    """Puts fences around everything from a ">>>" to the next empty line."""

    def on_object(self, *, obj, **_):
        if obj.docstring:
            obj.docstring.value = fenced(obj.docstring.value)


def fenced(text):
    """The docstring with its examples between fences."""
    lines, inside = [], False
    for line in text.splitlines():
        if line.startswith(">>>") and not inside:
            lines += ["", "```pycon"]
            inside = True
        elif inside and not line.strip():
            lines.append("```")
            inside = False
        lines.append(line)
    return "\n".join([*lines, "```"] if inside else lines)
