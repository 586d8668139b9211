"""How to mine: a selection and filters, with other ones for some data sets.

What YAML can spell out has no slots, as jsonargparse reads instances through ``vars``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, is_dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmretrieval.mining.data_sets import DataSets, fits
from mmretrieval.mining.filters import Filter
from mmretrieval.mining.selection import ModalityAware, Selection


@dataclass(frozen=True)
class Recipe:
    """A selection from what filters leave.

    Args:
        selection: How negatives are drawn.
        filters: What may be drawn, in the order of application.
    """

    selection: Selection
    filters: tuple[Filter, ...]


@dataclass(frozen=True)
class Override:
    """What one data set does otherwise.

    Args:
        selection: Instead of the plan's; ``None`` for the plan's.
        filters: Instead of all of the plan's; ``None`` for the plan's, an empty list for none.
    """

    selection: Selection | None = None
    filters: Sequence[Filter] | None = None


@dataclass(frozen=True)
class MiningPlan:
    """How to mine hard negatives; the default is the paper's (MM-Embed, https://arxiv.org/abs/2411.02571).

    Args:
        top_k: How many of the best candidates are looked at; a positive beyond has rank ``top_k``, at least
            1.
        negatives_per_query: How many negatives to draw, at least 1.
        seed: Of the draws. The same seed, round and query key give the same draws, whatever other queries
            there are.
        selection: How negatives are drawn from what the filters leave.
        filters: What may be drawn, in the order of application. Known positives are never drawn.
        data_sets: What single data sets do otherwise, by name or by a pattern with ``*`` and ``?``, or by
            source and name, as ``text:*`` for all text data sets of a second stage; a full name counts before
            patterns, and of these the first that fits.

    Raises:
        ValueError: If a value is out of range, or a selection or filter looks deeper than ``top_k``.
        TypeError: If a selection or filter is no dataclass, so that files could not be stamped with it.
    """

    top_k: int = 50
    negatives_per_query: int = 1
    seed: int = 0
    selection: Selection = field(default_factory=ModalityAware)
    filters: Sequence[Filter] = ()
    data_sets: Mapping[str, Override] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.top_k < 1 or self.negatives_per_query < 1:
            raise ValueError(
                "top_k and negatives_per_query must be at least 1, "
                f"found {self.top_k} and {self.negatives_per_query}."
            )
        for recipe in map(self.recipe, (None, *self.data_sets)):
            parts: list[Selection | Filter] = [recipe.selection, *recipe.filters]
            for part in parts:
                if part.needed_depth > self.top_k:
                    raise ValueError(
                        f"{part} needs the best {part.needed_depth} candidates, top_k={self.top_k}."
                    )
        self.stamp()

    def recipe(self, data_set: str | None = None, source: str = "") -> Recipe:
        """The selection and filters of a data set.

        Args:
            data_set: Its name; ``None``, or a name without an override, gives the plan's own.
            source: What the data set is from.
        """
        other = _NOTHING
        if data_set is not None:
            other = self.data_sets.get(data_set, self._fitting(data_set, source))
        filters = self.filters if other.filters is None else other.filters
        return Recipe(self.selection if other.selection is None else other.selection, tuple(filters))

    def groups(self, data_sets: DataSets | None, queries: int) -> Iterator[tuple[Recipe, NDArray[np.int64]]]:
        """The queries that share a recipe, with it.

        Args:
            data_sets: Where each query belongs; needed if the plan has overrides.
            queries: How many queries there are.

        Raises:
            ValueError: If data sets are needed and missing, an override names none of them, or there is not
                one code a query.
        """
        self._check_data_sets(data_sets, queries)
        pairs = [] if data_sets is None else data_sets.pairs()
        codes = np.zeros(queries, dtype=np.int64) if data_sets is None else data_sets.codes
        overridden = [code for code, pair in enumerate(pairs) if any(fits(p, *pair) for p in self.data_sets)]
        for code in overridden:
            yield self.recipe(*pairs[code]), np.flatnonzero(codes == code)
        yield self.recipe(), np.flatnonzero(~np.isin(codes, overridden))

    def stamp(self) -> dict[str, str | int]:
        """All settings as JSON scalars, for :class:`~mmretrieval.mining.negatives.Stamp`.

        Plans that mine differently have different stamps: each part is one canonical JSON string.
        """
        return {
            "top_k": self.top_k,
            "negatives_per_query": self.negatives_per_query,
            "seed": self.seed,
            "selection": _canonical(_described(self.selection)),
            "filters": _canonical([_described(part) for part in self.filters]),
            "data_sets": self._described_data_sets(),
        }

    def _fitting(self, data_set: str, source: str) -> Override:
        found = (other for pattern, other in self.data_sets.items() if fits(pattern, data_set, source))
        return next(found, _NOTHING)

    def _described_data_sets(self) -> str:
        """One JSON object whose keys are in the order that counts."""
        parts = (
            f"{json.dumps(name)}:{_canonical(self._described_recipe(name))}" for name in self._in_order()
        )
        return f"{{{','.join(parts)}}}"

    def _in_order(self) -> list[str]:
        """Names, whose order says nothing, and then patterns, of which the first that fits counts."""
        patterns = [name for name in self.data_sets if set(name) & set("*?[:")]
        return sorted(set(self.data_sets) - set(patterns)) + patterns

    def _described_recipe(self, data_set: str) -> dict[str, Any]:
        recipe = self.recipe(data_set)
        filters = [_described(part) for part in recipe.filters]
        return {"selection": _described(recipe.selection), "filters": filters}

    def _check_data_sets(self, data_sets: DataSets | None, queries: int) -> None:
        pairs = [] if data_sets is None else data_sets.pairs()
        unknown = [p for p in self.data_sets if not any(fits(p, *pair) for pair in pairs)]
        if unknown:
            names = sorted(f"{source}:{name}" if source else name for name, source in pairs)
            raise ValueError(
                f"The plan has settings for {', '.join(sorted(unknown))}; "
                f"data sets of the queries: {', '.join(names) or 'not given'}."
            )
        if data_sets is not None and data_sets.codes.shape != (queries,):
            raise ValueError(f"{queries} queries need a data set each, found {data_sets.codes.shape}.")


_NOTHING = Override()


def _described(part: object) -> dict[str, Any]:
    """A part by its class and fields; equal numbers look equal, as YAML may have 1 for 1.0."""
    if not is_dataclass(part) or isinstance(part, type):
        raise TypeError(f"{type(part).__name__} must be a dataclass, so that files can be stamped with it.")
    values = {
        name: int(value) if isinstance(value, float) and value.is_integer() else value
        for name, value in asdict(part).items()
    }
    return {"class": f"{type(part).__module__}.{type(part).__qualname__}", **values}


def _canonical(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
