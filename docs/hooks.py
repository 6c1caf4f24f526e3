"""What mkdocs does not do by itself: pages made of files outside docs/, and links to such files."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
HEADERS = ROOT / "csrc" / "include" / "fastdl"


def headers():
    """The public headers as code, those with the conventions first."""
    first = ["fastdl.h", "base.h"]
    names = sorted(p.name for p in HEADERS.iterdir() if p.name not in first)
    return "\n".join(f"## {name}\n\n```c\n{(HEADERS / name).read_text()}```\n" for name in first + names)


def on_page_markdown(markdown, page, **_):
    """Fills the pages that are made of other files, and turns links to files of the repository into their names."""
    markdown = markdown.replace(
        "{{headers}}", headers() if page.file.src_path == "c-api.md" else "{{headers}}"
    )
    if page.file.src_path == "contributing.md":
        markdown = (ROOT / "CONTRIBUTING.md").read_text().replace("](docs/", "](")

    def named(match):
        path = match.group(2)
        target = (ROOT / "docs" / page.file.src_path).parent.joinpath(path).resolve()
        if target.is_relative_to(ROOT / "docs"):
            return match.group()  # a page: mkdocs follows it
        if not target.exists():
            raise FileNotFoundError(f"{page.file.src_path}: the link to {path} leads nowhere")
        return f"`{target.relative_to(ROOT)}`"

    return re.sub(r"\[([^\]]+)\]\((\.\./[^)#]+)\)", named, markdown)
