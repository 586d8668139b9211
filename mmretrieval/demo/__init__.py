"""A page to look at: search an index in a browser."""
