#!/usr/bin/env python3
"""Fails if the target of a relative link or an anchor in a Markdown file does not exist. Uses no network."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# `[text](target)`, also of images, and `[name]: target`.
LINK = re.compile(r"\]\(\s*<?([^)\s>]+)>?[^)]*\)|^\[[^\]]+\]:\s*(\S+)", re.M)


def prose(text):
    """Removes code: its brackets and hashes are not Markdown."""
    text = re.sub(r"^(```+|~~~+).*?^\1[ \t]*$", "", text, flags=re.M | re.S)
    return re.sub(r"(`+)(?!`).*?(?<!`)\1(?!`)", lambda code: re.sub(r"[\[\]()#]", "", code[0]), text)


def anchors(path):
    """As GitHub derives them from headings."""
    seen = {}
    for heading in re.findall(r"^#{1,6} +(.+?)(?: +#+)?$", prose(path.read_text()), re.M):
        text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        name = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
        count = seen.get(name, 0)
        seen[name] = count + 1
        yield f"{name}-{count}" if count else name


def main():
    files = subprocess.run(["git", "ls-files", "*.md"], cwd=ROOT, check=True, capture_output=True, text=True)
    wrong = []
    for name in files.stdout.split("\n")[:-1]:
        path = ROOT / name
        for first, second in LINK.findall(prose(path.read_text())):
            link = first or second
            # Rustdoc's own links to items (`crate::Item`) are checked by rustdoc.
            if re.match(r"[a-z]+:", link) or "::" in link:
                continue
            file, _, anchor = link.partition("#")
            target = (path.parent / file).resolve() if file else path
            if not target.exists():
                wrong.append(f"{name}: {link}: no such file")
            elif anchor and target.suffix == ".md" and anchor not in anchors(target):
                wrong.append(f"{name}: {link}: no such heading")
    print("\n".join(wrong))
    sys.exit(bool(wrong))


main()
