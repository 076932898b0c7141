#!/usr/bin/env python3
"""Fails if a public signature names a type of a crate that is not in ARCHITECTURE.md's list of hosts, or if the public items
are not those in ci/public_api/CRATE.txt. UPDATE=1 writes these files.

A breaking release of such a crate is one of ours. rustdoc's JSON, which contains signatures and items, is not stable:
RUSTC_BOOTSTRAP switches it on, for rustdoc alone, so that nothing else is built again.
"""

import difflib
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CRATES = ["lakebase-core", "lakebase-diesel", "lakebase-seaorm", "lakebase-local"]
OWN = {"alloc", "core", "std", *(name.replace("-", "_") for name in CRATES)}


def allowed():
    """The first column of the table below the heading `Foreign types`: crate and the crate that shows it."""
    text = (ROOT / "ARCHITECTURE.md").read_text()
    section = text.split("## Foreign types", 1)[1].split("\n## ", 1)[0]
    rows = re.findall(r"^\| `(lakebase-\w+)` \| ([^|]+) \|", section, re.M)
    return {(ours, theirs) for ours, names in rows for theirs in re.findall(r"`(\w+)`", names)}


def document(crate, folder):
    rustdoc = Path(folder) / "rustdoc"
    rustdoc.write_text('#!/bin/sh\nRUSTC_BOOTSTRAP=1 exec rustdoc "$@"\n')
    rustdoc.chmod(0o700)
    subprocess.run(
        ["cargo", "rustdoc", "--locked", "-q", "-p", crate, "--lib", "--all-features", "--",
         "-Z", "unstable-options", "--output-format", "json"],
        cwd=ROOT, check=True, env={**os.environ, "RUSTDOC": str(rustdoc)},
    )
    metadata = subprocess.run(
        ["cargo", "metadata", "--no-deps", "--format-version", "1"], cwd=ROOT, check=True, capture_output=True)
    target = Path(json.loads(metadata.stdout)["target_directory"])
    return json.loads((target / "doc" / f"{crate.replace('-', '_')}.json").read_text())


def named(value):
    """The ids of all types and traits in a part of a signature."""
    if isinstance(value, dict):
        for key in ("resolved_path", "trait"):
            if isinstance(value.get(key), dict) and "id" in value[key]:
                yield str(value[key]["id"])
        for part in value.values():
            yield from named(part)
    elif isinstance(value, list):
        for part in value:
            yield from named(part)


def signatures(docs):
    """What is public, by name. Of an impl, only what it is for: hosts' traits are what we fit into."""
    for item in docs["index"].values():
        inner = item["inner"]
        if item["crate_id"] != 0 or item["visibility"] not in ("public", "default"):
            continue
        for kind in ("function", "struct_field", "type_alias", "assoc_type", "constant"):
            if kind in inner:
                part = inner[kind]
                yield item["name"], [part.get("sig"), part.get("generics")] if kind == "function" else part


def items(docs, key, path):
    """A line for the item, for each public one in it, and for each trait that it implements by itself."""
    item = docs["index"].get(str(key))
    if item is None:
        return
    (kind, inner), = item["inner"].items()
    if kind == "use":
        target = docs["index"].get(str(inner["id"]))
        if target is None:
            yield f"use {path}::{inner['name']} = {inner['source']}"
        elif inner["is_glob"]:
            for part in target["inner"]["module"]["items"]:
                yield from items(docs, part, path)
        else:
            yield from items(docs, inner["id"], f"{path}::{inner['name']}" if target["name"] != inner["name"] else path)
        return
    if kind == "impl":
        if inner["is_synthetic"] or inner["blanket_impl"]:
            return
        if inner["trait"] and inner["trait"]["path"] in ("Debug", "StructuralPartialEq"):
            return
        if inner["trait"]:
            yield f"impl {inner['trait']['path']} for {path}"
        else:
            for part in inner["items"]:
                yield from items(docs, part, path)
        return
    path = f"{path}::{item['name']}" if path else item["name"]
    yield f"{kind} {path}"
    fields = inner.get("kind", {}) if kind in ("struct", "variant") else {}
    fields = (fields.get("plain") or fields.get("struct") or {}).get("fields", []) if isinstance(fields, dict) else []
    for part in [*inner.get("items", []), *inner.get("variants", []), *inner.get("impls", []), *fields]:
        yield from items(docs, part, path)


def listed(crate, docs):
    """The difference between the crate's public items and the file."""
    file = ROOT / "ci" / "public_api" / f"{crate}.txt"
    lines = sorted(set(items(docs, docs["root"], "")))
    if os.environ.get("UPDATE") == "1":
        file.parent.mkdir(exist_ok=True)
        file.write_text("".join(f"{line}\n" for line in lines))
    old = file.read_text().splitlines() if file.exists() else []
    return [line for line in difflib.unified_diff(old, lines, str(file.relative_to(ROOT)), "now", n=0, lineterm="")]


def main():
    wanted = allowed()
    used = set()
    wrong = []
    for crate in CRATES:
        with tempfile.TemporaryDirectory() as folder:
            docs = document(crate, folder)
        wrong += listed(crate, docs)
        foreign = {int(key): value["name"] for key, value in docs["external_crates"].items()}
        for name, signature in signatures(docs):
            for key in named(signature):
                path = docs["paths"].get(key)
                if path is None or path["crate_id"] == 0:
                    continue
                theirs = foreign[path["crate_id"]]
                if theirs in OWN:
                    continue
                used.add((crate, theirs))
                if (crate, theirs) not in wanted:
                    wrong.append(f"{crate}: {name} names {'::'.join(path['path'])}")
    wrong += [f"{ours}: no public signature names {theirs} any more" for ours, theirs in sorted(wanted - used)]
    print("\n".join(dict.fromkeys(wrong)))
    sys.exit(bool(wrong))


main()
