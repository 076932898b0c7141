#!/usr/bin/env python3
"""A preprocessor of mdBook: links from a page to a file outside of docs/ become links to the repository."""

import json
import re
import sys

REPOSITORY = "https://github.com/lakebase-rs/lakebase/blob/main/"


def chapters(items):
    for item in items:
        if isinstance(item, dict) and "Chapter" in item:
            yield item["Chapter"]
            yield from chapters(item["Chapter"]["sub_items"])


def main():
    _context, book = json.load(sys.stdin)
    for chapter in chapters(book["items"]):
        # Pages are not in folders, so one step up leaves docs/.
        chapter["content"] = re.sub(r"\]\(\.\./", f"]({REPOSITORY}", chapter["content"])
    json.dump(book, sys.stdout)


# `supports RENDERER`: all of them.
if sys.argv[1:2] != ["supports"]:
    main()
