#!/usr/bin/env python3
"""Fails if a crate depends on another one whose name its sources do not contain."""

import json
import re
import subprocess
import sys
from pathlib import Path

# Dependencies that no source names, with the reason.
ALLOWED = {}


def main():
    command = ["cargo", "metadata", "--no-deps", "--format-version", "1", "--locked"]
    metadata = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    unused = set()
    seen = set()
    for package in metadata["packages"]:
        sources = {"normal": "", "dev": ""}
        for target in package["targets"]:
            tests = package["publish"] != [] and set(target["kind"]) & {"test", "bench", "example"}
            kind = "dev" if tests else "normal"
            for path in Path(target["src_path"]).parent.rglob("*.rs"):
                sources[kind] += path.read_text()
        sources["dev"] += sources["normal"]
        for dependency in package["dependencies"]:
            name = dependency["rename"] or dependency["name"]
            kind = "dev" if dependency["kind"] == "dev" else "normal"
            entry = (package["name"], name)
            if re.search(rf"\b{name.replace('-', '_')}\b", sources[kind]):
                continue
            seen.add(entry)
            if entry not in ALLOWED:
                unused.add(f"{package['name']}: {name} is unused")
    unused |= {f"{crate}: the exception for {name} is not needed" for crate, name in ALLOWED.keys() - seen}
    print("\n".join(sorted(unused)))
    sys.exit(bool(unused))


main()
