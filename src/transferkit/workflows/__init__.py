"""Room: workflows."""
