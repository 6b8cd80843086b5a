"""The two ways not to answer a request."""


class Refused(ValueError):
    """The request breaks a rule of the specification or the protocol; the message says which, where and what to do."""


class Unsupported(NotImplementedError):
    """The request may well be right, but this implementation does not do it."""
