"""Data sets, shards and the Lightning DataModules that stream them."""
