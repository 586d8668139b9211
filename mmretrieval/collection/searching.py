"""Search a collection by text, picture, or both."""

from __future__ import annotations

from collections.abc import Collection as Group
from collections.abc import Sequence
from dataclasses import replace

from mmretrieval.collection.asking import Way, ways_to_ask
from mmretrieval.collection.collection import Collection, check_retriever
from mmretrieval.collection.hits import Hit
from mmretrieval.content import MODALITIES, Candidate, Content, Modality, Query
from mmretrieval.rerank.zero_shot import ZeroShotReranker
from mmretrieval.retriever import Retriever


class Searcher:
    """Finds the items of a collection that are nearest to a query.

    Args:
        collection: What to search.
        retriever: The one that the collection was made with.

    Raises:
        UserError: If it is another retriever.
    """

    def __init__(self, collection: Collection, retriever: Retriever) -> None:
        check_retriever(collection.settings, retriever, collection.folder)
        self.collection, self.retriever = collection, retriever
        self.index = collection.index()

    def search(
        self,
        asked: Content,
        k: int = 10,
        modalities: Group[Modality] = MODALITIES,
        instruction: str | None = None,
    ) -> list[Hit]:
        """Return the best items, best first.

        Args:
            asked: What to search with.
            k: How many items, at least 1.
            modalities: Which ones to look for.
            instruction: What to say with the query; by default what the retriever was trained with.

        Raises:
            ValueError: If ``k`` is not positive, or no modality is asked for.
        """
        if k < 1 or not modalities:
            raise ValueError(f"Ask for at least one item of at least one modality, found {k}, {modalities}.")
        ways = ways_to_ask(self.retriever.provenance, asked.modality, modalities, instruction)
        vectors = self.retriever.encode_queries([Query(asked, way.instruction) for way in ways])
        best: dict[int, tuple[float, Way]] = {}
        for targets in dict.fromkeys(way.targets for way in ways):
            own = [number for number, way in enumerate(ways) if way.targets == targets]
            scores, rows = self.index.search(vectors[own], k, [target.code for target in targets])
            for number, row_scores, row_labels in zip(own, scores.tolist(), rows.tolist(), strict=True):
                for score, row in zip(row_scores, row_labels, strict=True):
                    if row >= 0 and (row not in best or score > best[row][0]):
                        best[row] = (score, ways[number])
        ranked = sorted(best, key=lambda row: (-best[row][0], row))[:k]
        return [hit for row in ranked for hit in self._hits(row, *best[row])][:k]

    def _hits(self, row: int, score: float, way: Way) -> list[Hit]:
        """The items of a content; several where the same text or picture is there more than once."""
        return [
            Hit(
                entry.key,
                score,
                Modality.of(text=entry.text is not None, image=entry.image is not None),
                entry.text,
                entry.image,
                way.instruction,
                way.task,
            )
            for entry in self.collection.catalogue.items_of(row)
        ]

    def rerank(self, asked: Content, hits: Sequence[Hit], reranker: ZeroShotReranker) -> list[Hit]:
        """Reorder what was found by an MLLM's True or False.

        Args:
            asked: What was searched with.
            hits: What was found.
            reranker: A loaded reranker.

        Raises:
            UserError: If a picture is not there any more.
        """
        scored = []
        for task, instruction in dict.fromkeys((hit.task, hit.instruction) for hit in hits):
            own = [hit for hit in hits if (hit.task, hit.instruction) == (task, instruction)]
            candidates = [Candidate(self.collection.content(hit.text, hit.image)) for hit in own]
            scores = reranker.score(Query(asked, instruction), candidates, task).tolist()
            scored += [replace(hit, score=score) for hit, score in zip(own, scores, strict=True)]
        place = {hit.key: number for number, hit in enumerate(hits)}
        return sorted(scored, key=lambda hit: (-hit.score, place[hit.key]))
