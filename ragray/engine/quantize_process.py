"""The program of ragray's own methods: one step of one method, in a process of its own.

    python -m ragray.engine.quantize_process REQUEST.json RESULT.json

It ends with the process that started it, so that a lost worker leaves nothing running.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path

from ragray.engine.quantize_protocol import Request, Result, write_error
from ragray.errors import RagrayError

_LOOK_S = 1.0


def main(arguments: list[str]) -> None:
    """Do what the request says, and write the result or the error."""
    threading.Thread(target=end_with, args=(os.getppid(),), daemon=True).start()
    request, result = Request.read(Path(arguments[0])), Path(arguments[1])
    try:
        run_step(request).write(result)
    except RagrayError as error:
        write_error(result, error.message, error.fix)


def run_step(request: Request) -> Result:
    """Do one step of one of ragray's own methods.

    Raises:
        EngineError: the method cannot do it.
    """
    import torch

    from ragray.engine.quantize_measures import measure
    from ragray.engine.quantize_methods import FULL, LOCAL

    torch.set_num_threads(request.threads)
    method = LOCAL[request.method]
    if request.step == "quantize":
        return Result(facts=method.quantize(request))
    return Result(measured=measure(method, request, FULL))


def end_with(parent: int) -> None:
    """End this process once `parent` is not its parent any more."""
    while os.getppid() == parent:
        time.sleep(_LOOK_S)
    os._exit(1)


if __name__ == "__main__":
    main(sys.argv[1:])
