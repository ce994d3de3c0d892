"""The base class of all errors whose message is for the user."""

from __future__ import annotations


class DataEngineError(Exception):
    """An error in an input, a setting or a service; the message also says what to do, in one line.

    Commands print the message without a traceback. Any other exception is a bug in the code.
    """
