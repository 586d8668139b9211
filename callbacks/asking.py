"""How an evaluation asks its queries: with which instructions, and with which clean-up of texts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from callbacks.collaborators import RetrievalData
from callbacks.pool_search import rows_by_task
from data_modules.encoding import EncodingTable
from data_modules.query_set import QuerySet
from data_modules.wording import FIRST, Wording
from mmretrieval.metrics.ranked import Rows


@dataclass(frozen=True, slots=True)
class Asking:
    """Which wordings there are, and the tables to embed.

    The usual tables are asked for without the argument, which other data modules need not have.

    Args:
        instructions: See :class:`~callbacks.RetrievalEvaluation`.
        wording: The usual one.
    """

    instructions: Literal["first", "mean", "uniir"]
    wording: Wording

    def wordings(self, queries: QuerySet, rows: Rows) -> list[tuple[Wording, dict[str, Rows]]]:
        """The wordings, each with the queries that are asked so, by task.

        Args:
            queries: The queries of the split.
            rows: Those that are asked.
        """
        by_task = rows_by_task(queries, rows)
        if self.instructions != "mean":
            return [(self.wording, by_task)]
        counts = {
            task: max((len(queries.instructions(row)) for row in own.tolist()), default=1)
            for task, own in by_task.items()
        }
        return [
            (Wording(number), {task: own for task, own in by_task.items() if counts[task] > number})
            for number in range(max(counts.values()))
        ]

    def candidate_table(self, data: RetrievalData) -> EncodingTable:
        """All candidates, to embed."""
        return data.candidate_table(wording=self.wording) if self.wording.cleaned else data.candidate_table()

    def query_table(self, data: RetrievalData, split: str, wording: Wording | None = None) -> EncodingTable:
        """The queries of a split, to embed.

        Args:
            data: What has them.
            split: Their split.
            wording: How they are worded; as usual by default.
        """
        wording = self.wording if wording is None else wording
        return data.query_table(split) if wording == FIRST else data.query_table(split, wording=wording)
