"""One rank of the tests: calls the functions it is told to, and sends back what they return."""

import importlib.util
import sys
import traceback
import warnings
from multiprocessing.connection import Client


def function_of(path, name):
    spec = importlib.util.spec_from_file_location("scenario", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return getattr(module, name)


def serve(address):
    import torch

    torch.set_num_threads(1)
    with Client(address) as connection:
        connection.send(None)
        while (call := connection.recv()) is not None:
            path, name, arguments = call
            try:
                function = function_of(path, name)
                with warnings.catch_warnings():
                    warnings.simplefilter("error")
                    answer = (function(*arguments), None)
            except BaseException as error:
                notes = "\n".join(getattr(error, "__notes__", ()))
                answer = (f"{type(error).__name__}: {error}\n{notes}", traceback.format_exc())
            connection.send(answer)


if __name__ == "__main__":
    serve(sys.argv[1])
