"""The process of one section.

Run: python -m first_contact.section NAME MODULE LOG
"""

import sys
from importlib import import_module
from pathlib import Path

from first_contact.recorder import Recorder, is_device_usable


def main() -> None:
    name, module, log = sys.argv[1:]
    recorder = Recorder(name, Path(log))
    try:
        for check, call in import_module(module).checks():
            if is_device_usable():
                recorder.run(check, call)
            else:
                recorder.fail(check, "not run: an earlier check broke the CUDA context")
    except Exception as error:  # of an import, or of what checks share
        recorder.fail("setup", error)
    sys.exit(recorder.has_failed)


if __name__ == "__main__":
    main()
