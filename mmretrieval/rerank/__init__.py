"""Zero-shot reranking: an MLLM as it is says whether a candidate is what a query asks for."""

from mmretrieval.rerank.describing import Description
from mmretrieval.rerank.listwise import ListwiseReranker
from mmretrieval.rerank.prompts import RerankPrompts
from mmretrieval.rerank.zero_shot import ZeroShotReranker

__all__ = ["Description", "ListwiseReranker", "RerankPrompts", "ZeroShotReranker"]
