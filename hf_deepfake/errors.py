"""The error that means: the input is wrong, not the program."""


class InputError(ValueError):
    """Wrong usage or input: the message says where, what was found and what to do.

    The command line prints it as one line and exits with status 2; any other
    exception is a defect of the program and keeps its traceback.
    """
