"""The harness behind ``benchmarks/run.py``: sides, plan, table and figure."""
