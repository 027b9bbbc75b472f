"""Pretraining of the embedded backbone on images made by formula."""
