"""``mmretrieval data convert`` and ``merge``: other public layouts into that of M-BEIR."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.table import Table

from data_modules.conversion import captions as caption_pairs
from data_modules.conversion import merging, prompts
from data_modules.conversion import pairs as text_pairs
from data_modules.conversion import text as texts
from data_modules.conversion.composed import ComposedOptions, convert_composed
from data_modules.conversion.target import ConversionSummary
from data_modules.formats.circo import CIRCOReader
from data_modules.formats.cirr import CIRRReader
from data_modules.formats.composed import ComposedReader
from data_modules.formats.fashioniq import CATEGORIES, FashionIQReader
from mmretrieval.collection.captions import captioned

Split = Literal["train", "val", "test"]
Images = Literal["link", "copy"]


def beir(
    source: Path,
    out: Path,
    split: str | None = None,
    into: Split | None = None,
    name: str | None = None,
    dataset_id: int = 100,
    prompt_file: Path | None = None,
    allow_empty: bool = False,
    allow_dangling: bool = False,
    progress: bool = True,
) -> None:
    """Convert a text data set in the BEIR layout (corpus.jsonl, queries.jsonl, qrels/).

    Args:
        source: Folder of the data set.
        out: Folder to create.
        split: Qrels files to convert, joined by commas; all by default. 'dev' becomes 'val'.
        into: Name of the split to write, if one is converted.
        name: Lower-case name of the data set; that of the folder by default.
        dataset_id: Its number, from 0, different from those of data sets to merge with; M-BEIR uses 0 to 9.
        prompt_file: Instructions, one a line.
        allow_empty: Leave out empty texts and count them.
        allow_dangling: Leave out judgements of what is not there and count them.
        progress: Whether to show a progress bar.
    """
    summary = texts.convert_beir(
        source,
        out,
        name=source.resolve().name.lower() if name is None else name,
        dataset_id=dataset_id,
        splits=split.split(",") if split else None,
        into=into,
        prompts=prompts.read_prompts(prompt_file, prompts.TEXT_SEARCH),
        allow_empty=allow_empty,
        allow_dangling=allow_dangling,
        progress=progress,
    )
    _print(summary)


def pairs(
    source: Path,
    out: Path,
    name: str | None = None,
    dataset_id: int = 100,
    split: Split = "train",
    symmetric: bool = False,
    prompt_file: Path | None = None,
    progress: bool = True,
) -> None:
    """Convert a file of queries and answering texts: .jsonl, .jsonl.gz, or SQuAD's .json.

    Args:
        source: The file; its lines are objects with query, positives and negatives, or lists of texts.
        out: Folder to create.
        name: Name of the data set; the file's by default.
        dataset_id: Its number; those of folders to be merged must differ.
        split: What the pairs are.
        symmetric: Let each positive ask for its query as well, as in sets of duplicates.
        prompt_file: Instructions, one a line.
        progress: Whether to show a progress bar.
    """
    summary = text_pairs.convert_pairs(
        source,
        out,
        name=source.name.split(".")[0].lower() if name is None else name,
        dataset_id=dataset_id,
        split=split,
        symmetric=symmetric,
        prompts=prompts.read_prompts(prompt_file, prompts.TEXT_SEARCH),
        progress=progress,
    )
    _print(summary)


def captions(
    source: Path,
    out: Path,
    name: str = "captions",
    dataset_id: int = 100,
    held_out: float = 0.1,
    images: Images = "link",
    progress: bool = True,
) -> None:
    """Convert captioned pictures: a folder with a .txt beside each picture, or a .jsonl of image and text.

    Args:
        source: The folder or file, as 'mmretrieval index' takes them; what has not both is left out.
        out: Folder to create.
        name: Name of the data set.
        dataset_id: Its number; those of folders to be merged must differ.
        held_out: Share of the pairs in the test split, and as many in the val split.
        images: Hard links where the disk allows them, or copies.
        progress: Whether to show a progress bar.
    """
    found = captioned(source)
    summary = caption_pairs.convert_captions(
        [caption_pairs.Captioned(*pair) for pair in found.pairs],
        out,
        name=name,
        dataset_id=dataset_id,
        held_out=held_out,
        copy_images=images == "copy",
        progress=progress,
    )
    _print(dataclasses.replace(summary, left_out=summary.left_out + found.left_out))


def circo(
    source: Path,
    out: Path,
    split: str = "val",
    into: Split | None = None,
    name: str = "circo",
    dataset_id: int = 20,
    prompt_file: Path | None = None,
    image_folder: Path | None = None,
    images: Images = "link",
    allow_missing_images: bool = False,
    allow_empty_texts: bool = False,
    progress: bool = True,
) -> None:
    """Convert CIRCO's release: composed retrieval in all of COCO's unlabelled images, with several targets.

    Args:
        source: Folder with annotations/ and COCO2017_unlabeled/.
        out: Folder to create.
        split: Split to convert; 'test' has no targets.
        into: Name of the split to write.
        name: Lower-case name of the data set.
        dataset_id: Its number, from 0; M-BEIR uses 0 to 9.
        prompt_file: Instructions, one a line.
        image_folder: Folder of the JPEG files, if elsewhere.
        images: 'link' for hard links where the disk allows them, else copies.
        allow_missing_images: Leave out images that are not on disk with all that needs them, and count.
        allow_empty_texts: Leave out queries without text and count them.
        progress: Whether to show a progress bar.
    """
    options = ComposedOptions(
        name=name,
        dataset_id=dataset_id,
        prompts=prompts.read_prompts(prompt_file, prompts.CIRCO),
        splits=split.split(","),
        into=into,
        copy_images=images == "copy",
        allow_missing_images=allow_missing_images,
        allow_empty_texts=allow_empty_texts,
        progress=progress,
    )
    _convert(CIRCOReader(source, image_folder), out, options)


def cirr(
    source: Path,
    out: Path,
    split: str = "val",
    into: Split | None = None,
    name: str = "cirr_rc2",
    dataset_id: int = 21,
    prompt_file: Path | None = None,
    image_folder: Path | None = None,
    images: Images = "link",
    allow_missing_images: bool = False,
    allow_empty_texts: bool = False,
    progress: bool = True,
) -> None:
    """Convert CIRR's release rc2: composed retrieval among real-life photos.

    Args:
        source: Folder with captions/ and image_splits/, or the one above, which calls it cirr.
        out: Folder to create.
        split: Splits to convert, joined by commas; 'test' has no targets.
        into: Name of the split to write, if one is converted.
        name: Lower-case name of the data set.
        dataset_id: Its number, from 0; M-BEIR uses 0 to 9.
        prompt_file: Instructions, one a line.
        image_folder: Folder with train/ and dev/, if elsewhere.
        images: 'link' for hard links where the disk allows them, else copies.
        allow_missing_images: Leave out images that are not on disk with all that needs them, and count.
        allow_empty_texts: Leave out queries without text and count them.
        progress: Whether to show a progress bar.
    """
    options = ComposedOptions(
        name=name,
        dataset_id=dataset_id,
        prompts=prompts.read_prompts(prompt_file, prompts.CIRR),
        splits=split.split(","),
        into=into,
        copy_images=images == "copy",
        allow_missing_images=allow_missing_images,
        allow_empty_texts=allow_empty_texts,
        progress=progress,
    )
    _convert(CIRRReader(source, image_folder), out, options)


def fashioniq(
    source: Path,
    out: Path,
    split: str = "val",
    into: Split | None = None,
    name: str = "fashioniq",
    dataset_id: int = 22,
    categories: str = ",".join(CATEGORIES),
    prompt_file: Path | None = None,
    image_folder: Path | None = None,
    images: Images = "link",
    allow_missing_images: bool = False,
    allow_empty_texts: bool = False,
    progress: bool = True,
) -> None:
    """Convert FashionIQ's release: a garment and two remarks, joined by 'and'; a pool for each category.

    Args:
        source: Folder with captions/, image_splits/ and images/.
        out: Folder to create.
        split: Splits to convert, joined by commas; 'test' has no targets.
        into: Name of the split to write, if one is converted.
        name: Lower-case name; the data sets are called <name>_dress, <name>_shirt and <name>_toptee.
        dataset_id: Number of the first data set, from 0; the others follow. M-BEIR uses 0 to 9.
        categories: Which to convert, joined by commas.
        prompt_file: Instructions, one a line.
        image_folder: Folder of the image files, if elsewhere.
        images: 'link' for hard links where the disk allows them, else copies.
        allow_missing_images: Leave out images that are not on disk with all that needs them, and count.
        allow_empty_texts: Leave out queries without text and count them.
        progress: Whether to show a progress bar.
    """
    options = ComposedOptions(
        name=name,
        dataset_id=dataset_id,
        prompts=prompts.read_prompts(prompt_file, prompts.FASHIONIQ),
        splits=split.split(","),
        into=into,
        copy_images=images == "copy",
        allow_missing_images=allow_missing_images,
        allow_empty_texts=allow_empty_texts,
        progress=progress,
    )
    _convert(FashionIQReader(source, image_folder, categories.split(",")), out, options)


def merge(
    first: Path,
    second: Path,
    out: Path,
    more: list[Path] | None = None,
    images: Images = "link",
    progress: bool = True,
) -> None:
    """Join folders in the M-BEIR layout into one, whose global pools hold all candidates.

    Args:
        first: A folder; the data sets of all have different names and numbers.
        second: Another folder.
        out: Folder to create.
        more: Further folders, as '--more+=FOLDER' for each.
        images: 'link' for hard links where the disk allows them, else copies.
        progress: Whether to show a progress bar.
    """
    summary = merging.merge(
        [first, second, *(more or ())], out, copy_images=images == "copy", progress=progress
    )
    queries = {split: sum(tasks.values()) for split, tasks in summary.queries.items()}
    for note in summary.notes:
        print(note)
    print(
        f"{out}: {', '.join(f'{name} ({number})' for name, number in summary.datasets.items())}; queries "
        f"{queries}, candidates {dict(summary.candidates)}, {summary.images} images"
    )


def _convert(reader: ComposedReader, out: Path, options: ComposedOptions) -> None:
    _print(convert_composed(reader, out, options))


def _print(summary: ConversionSummary) -> None:
    table = Table("what", "number", title=str(summary.out))
    for split, tasks in summary.queries.items():
        for task, number in tasks.items():
            table.add_row(f"{split} queries of {task}", str(number))
    for pool, number in summary.candidates.items():
        table.add_row(f"candidates in {pool}", str(number))
    table.add_row("images", f"{summary.images}, of which {summary.linked} hard links")
    for what, number in summary.left_out.items():
        table.add_row(f"left out: {what}", str(number), style="yellow")
    for what, number in summary.notes.items():
        table.add_row(f"note: {what}", str(number))
    Console().print(table)
