"""Whole jobs in one call, each built from the other rooms."""
