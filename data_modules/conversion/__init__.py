"""Brings data sets of other public layouts into the M-BEIR layout, which everything else here reads."""
