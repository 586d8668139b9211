"""The ``mmretrieval`` command; its sub-commands are the functions in the neighbouring files."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from jsonargparse import auto_cli, set_parsing_settings

from mmretrieval.errors import UserError
from mmretrieval.tools import (
    compare,
    configuration_reference,
    conversion,
    data,
    demo,
    doctor,
    exporting,
    indexing,
    mining,
    mteb_tasks,
    original_ids,
    reranking,
    searching,
)
from mmretrieval.tools.words import spelled_out

COMMANDS: dict[str, Any] = {
    "data": {
        "_help": "Make, convert, pack, check and count data sets.",
        "pack": data.pack,
        "verify": data.verify,
        "stats": data.stats,
        "doctor": doctor.doctor,
        "synthetic": data.synthetic,
        "album": data.album,
        "convert": {
            "_help": "Bring data sets of other public layouts into that of M-BEIR.",
            "beir": conversion.beir,
            "pairs": conversion.pairs,
            "captions": conversion.captions,
            "circo": conversion.circo,
            "cirr": conversion.cirr,
            "fashioniq": conversion.fashioniq,
        },
        "merge": conversion.merge,
        "original-ids": original_ids.original_ids,
    },
    "mine": mining.mine,
    "compare": compare.compare,
    "rerank": reranking.rerank,
    "mteb": mteb_tasks.mteb,
    "export": exporting.export,
    "index": indexing.index,
    "search": searching.search,
    "demo": demo.demo,
    "docs": {
        "_help": "Write reference documents from the docstrings.",
        "configuration": configuration_reference.configuration,
    },
}
"""Sub-commands: names to functions, whose annotations and docstrings make the arguments and their help."""


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line.

    Args:
        args: The words after the command's name; those of this process if ``None``.

    Raises:
        SystemExit: With status 2 after one line on stderr for bad data or arguments, with 1 for found damage.
    """
    try:
        words = sys.argv[1:] if args is None else list(args)
        # A search's text needs no name, and may be left out.
        set_parsing_settings(parse_optionals_as_positionals=words[:1] == ["search"])
        auto_cli(COMMANDS, args=spelled_out(words, COMMANDS), prog="mmretrieval")
    except UserError as error:
        print(f"mmretrieval: {error}", file=sys.stderr)
        raise SystemExit(2) from None
