"""The two exceptions that have a meaning beyond "something broke"."""


class UserError(Exception):
    """The input is at fault. The message is one sentence that says what is wrong and what to do.

    The command line prints it and exits with 2, the page shows it; neither shows a traceback. It names files by their
    base name only, so that it can be shown to anybody.
    """


class Cancelled(Exception):
    """The person pressed stop. Raised by ``report`` inside an engine; never shown as an error."""
