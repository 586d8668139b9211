"""Benchmarks of composed image retrieval: a reference image and a text that changes it → an image.

What their releases have in common; :mod:`circo`, :mod:`cirr` and :mod:`fashioniq` read the files of each.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from data_modules.formats.records import DataError


@dataclass(frozen=True, slots=True)
class ComposedQuery:
    """One query, with images by the names that the release gives them.

    Args:
        source: Where it stands, for errors.
        name: Its name in the release, unique in its split.
        reference: The image that the text changes.
        text: How to change it; may be empty, which a converter has to refuse or count.
        targets: The images to find; the first is the one that the text was written for.
        group: Images among which the benchmark also ranks, without the reference; empty if it does not.
        excluded: Images that the benchmark's own evaluation leaves out of the ranking.
    """

    source: object
    name: str
    reference: str
    text: str
    targets: tuple[str, ...]
    group: tuple[str, ...] = ()
    excluded: tuple[str, ...] = ()


@dataclass(frozen=True)
class ComposedSet:
    """The queries of one split that search one pool.

    Args:
        part: What tells the pools of one benchmark apart; empty if there is one.
        listing: The file that lists the pool's images.
        images: The pool: names of images → files, which may be absent.
        queries: The queries.

    Raises:
        DataError: If two queries have one name, or an image of one is not in the pool.
    """

    part: str
    listing: Path
    images: dict[str, Path]
    queries: list[ComposedQuery]

    def __post_init__(self) -> None:
        places: dict[str, object] = {}
        for query in self.queries:
            if query.name in places:
                raise DataError(
                    f"{query.source}: query {query.name!r} occurs already at {places[query.name]}; "
                    "remove one of them"
                )
            places[query.name] = query.source
            for role, names in (
                ("reference", (query.reference,)),
                ("target", query.targets),
                ("group member", query.group),
                ("excluded image", query.excluded),
            ):
                for name in names:
                    if name not in self.images:
                        raise DataError(
                            f"{query.source}: {role} {name!r} is not among the images of {self.listing}; "
                            "use both files from one release"
                        )
            if len(set(query.targets)) < len(query.targets):
                raise DataError(f"{query.source}: a target is listed twice; remove one of them")


class ComposedReader(Protocol):
    """Reads the release of one benchmark."""

    parts: tuple[str, ...]
    """Names of the pools; one empty name if there is one pool."""

    def read(self, split: str) -> list[ComposedSet]:
        """Return the labelled queries of a split, and the pools they search.

        Args:
            split: ``train``, ``val`` or ``test``.

        Raises:
            DataError: If the split is unknown or released without targets, or a file cannot be used.
        """
        ...


def check_split(benchmark: str, split: str, known: tuple[str, ...]) -> None:
    """Refuse a split that a benchmark does not have.

    Raises:
        DataError: If ``split`` is not among ``known``.
    """
    if split not in known:
        raise DataError(f"split {split!r}: {benchmark} has no such split; choose one of {', '.join(known)}")


def no_targets(source: object, benchmark: str, split: str) -> DataError:
    """Return the error for queries that were released without the images to find."""
    return DataError(
        f"{source}: {benchmark} releases the {split} split without targets, for its evaluation server: "
        "nothing can be measured on it here; convert the split 'val'"
    )
