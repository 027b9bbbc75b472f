"""One script a library: ``python -m speed.sides.NAME``, by its environment's Python."""
