"""Faces of a trained retriever for other libraries."""
