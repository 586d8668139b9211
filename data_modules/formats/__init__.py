"""Readers and writers of public data layouts; nothing else knows their file names."""
