"""The `mmretrieval` command."""
