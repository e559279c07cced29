"""Errors that users see: one class per kind of mistake, one sentence per message."""

from __future__ import annotations


class SigeError(Exception):
    """Base of every error that sige_deploy raises on purpose; its text is one clear sentence."""


class BundleError(SigeError):
    """A bundle is missing, truncated, altered, unsafe, or of a version that this release does not know."""


class InputError(SigeError):
    """An argument has the wrong name, shape, dtype or contents."""


class StateError(SigeError):
    """A call came too early, e.g. an edit before a record."""


class ExportError(SigeError):
    """A network cannot be exported as asked."""


class RuntimeFailure(SigeError):
    """An engine is missing, cannot be made, or failed while running."""


class CacheError(SigeError):
    """A cache file is damaged, foreign, or cannot be written."""


class Cancelled(SigeError):
    """A long call was cancelled between two steps, as its caller asked."""
