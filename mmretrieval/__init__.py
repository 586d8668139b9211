"""A universal multimodal retriever: train, evaluate and use it."""
