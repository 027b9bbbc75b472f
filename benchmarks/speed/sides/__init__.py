"""One script for each library, run as ``python -m speed.sides.NAME`` by its environment's Python."""
