"""Which licences of published weights forbid commercial use."""

from __future__ import annotations

_FORBID = frozenset(
    {
        "apple-amlr",  # research purposes only
        "cc-by-nc-4.0",
        "fair-noncommercial-research-license",
        "seer-license",  # non-commercial research only
    }
)
_ALLOW = frozenset(
    {
        "apache-2.0",
        "apple-ascl",
        "bsd-3-clause",
        "cc-by-4.0",
        "cvnets-license",
        "dinov3-license",
        "fastvit-license",
        "gemma",
        "mit",
        "mobileone-license",
        "nvidia-open-model-license",
    }
)


def forbids_commercial_use(licence: str | None) -> bool | None:
    """Whether a licence, by its short name, forbids commercial use; None where not known.

    False means only that commercial use is not forbidden as such: some of these licences have
    terms of their own to read first.
    """
    if licence in _FORBID or (licence or "").startswith("cc-by-nc"):
        return True
    return False if licence in _ALLOW else None
