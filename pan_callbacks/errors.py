"""Errors of this package."""


class PANError(RuntimeError):
    """Raised if ``pan_callbacks`` cannot do what it was asked; the message names the thing and the way out."""


class UsageError(PANError):
    """Raised if something was asked for that does not exist or makes no sense; the command line answers with 2."""
