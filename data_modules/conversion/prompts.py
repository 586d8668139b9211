"""Instructions for converted data sets; none is copied from a benchmark."""

from __future__ import annotations

from pathlib import Path

from data_modules.formats.mbeir_rows import text_lines
from data_modules.formats.records import DataError

Prompts = tuple[str, ...]

TEXT_SEARCH: Prompts = (
    "Find a text that gives what the query asks for.",
    "Which passage fits this query best?",
    "Retrieve the document that a reader with this query needs.",
    "Search the collection for a text that is relevant to the query.",
)
"""For text data sets of any kind; most deserve prompts of their own."""
CAPTION_TO_PICTURE: Prompts = (
    "Find the picture that this text describes.",
    "Which image shows what the caption says?",
    "Retrieve the photo for this description.",
    "Look for a picture that fits these words.",
)
PICTURE_TO_CAPTION: Prompts = (
    "Find the text that describes this picture.",
    "Which caption says what the image shows?",
    "Retrieve the description of this photo.",
    "Look for words that fit this picture.",
)
CIRCO: Prompts = (
    "Find a photo that has what this one shows, but changed as the text says.",
    "The text says how the wanted photo differs from this one: find it.",
    "Search for an everyday scene like this, with the described change.",
    "Retrieve all photos that this picture and its modification describe.",
)
CIRR: Prompts = (
    "Find the picture that one gets from this one by the described change.",
    "Start from this picture, apply what the text says, and find the result.",
    "Which picture resembles this one except for what the text changes?",
    "Retrieve the real-life photo that matches this photo with the given edit.",
)
FASHIONIQ: Prompts = (
    "Find a garment like this one that differs as the text says.",
    "The shopper likes this piece but wants the described changes: show the product.",
    "Which clothing photo fits this item together with the feedback?",
    "Retrieve the product picture for this garment and the requested differences.",
)


def read_prompts(path: Path | None, default: Prompts) -> Prompts:
    """Return the lines of a file, or the default.

    Args:
        path: A text file with one prompt per line; ``None`` for the default.
        default: Prompts to use without a file.

    Raises:
        DataError: If the file is missing or has no line, or a line has a tab.
    """
    if path is None:
        return default
    prompts = []
    for source, line in text_lines(path):
        if "\t" in line.strip():
            raise DataError(f"{source}: the prompt has a tab; write blanks")
        prompts.append(line.strip())
    return tuple(prompts)
