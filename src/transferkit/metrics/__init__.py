"""Judging predictions: arrays in, numbers, intervals and typed results out."""
