"""Choosing a backbone without training it: features and labels in, transferability scores out.

Higher is better for every score. None needs a network: features come from any extractor.
"""
