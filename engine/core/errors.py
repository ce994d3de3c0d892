"""The base of all errors whose message is for the user."""

from __future__ import annotations


class DataEngineError(Exception):
    """What is wrong with an input, a setting or a service, and what to do about it, in one line.

    Commands print the message without a traceback. Any other exception is a fault of the code.
    """
