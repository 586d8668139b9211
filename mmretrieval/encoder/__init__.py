"""From an MLLM to embeddings: loading, prompts, pooling, and the small model that ships."""
