"""The one exception that means "the user can mend this", and what no message may hold."""

import os
import re

_CREDENTIALS = re.compile(r"(?<=://)[^\s'\"]*@")
_QUERY = re.compile(r"(?<=\?)[^\s'\"?]*=[^\s'\"]*")
_SECRET_NAME = re.compile(r"SECRET|TOKEN|PASSWORD|PASSWD|ACCESS_KEY|ACCOUNT_KEY|API_KEY|CONNECTION_STRING|CREDENTIAL")
_SECRET_LENGTH = 8
"""Shorter values are no secrets, and would blot out words."""


class InputError(ValueError):
    """A mistake in the configuration, the logs or the paths.

    The message names the thing (key, column, file, row group) and the remedy. Jobs print it alone, without a stack
    trace, and exit with code 2; every other exception is a fault of the program and keeps its trace. Credentials
    that found their way into the text are blotted out.
    """

    def __init__(self, text: object = "") -> None:
        super().__init__(redacted(str(text)))


def has_credentials(text: str) -> bool:
    """Whether a URL carries a password (user:password@) or a query, in which drivers take keys."""
    scheme, there, rest = text.partition("://")
    if not there or not scheme or " " in scheme:
        return False
    _, named, _ = rest.partition("/")[0].rpartition("@")
    whole_token = named and scheme.split("+")[-1] in ("http", "https")  # elsewhere a name alone is a user's
    password = ":" in rest.partition("@")[0] and "@" in rest
    return bool(whole_token) or password or re.search(r"\?[^?]*=", rest) is not None


def redacted(text: str) -> str:
    """The text without the credentials of URLs, and without the values of the environment's secret variables."""
    text = _QUERY.sub("***", _CREDENTIALS.sub("***@", text))
    for name, value in os.environ.items():
        if len(value) >= _SECRET_LENGTH and value in text and _SECRET_NAME.search(name):
            text = text.replace(value, "***")
    return text
