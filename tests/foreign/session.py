"""Run commands one after the other, each in a process of its own that shares the slow imports.

Called as `session.py PACKAGE COMMANDS`: whose Lightning it is, and a JSON list of arguments for
`train.py`, a list for each command. `i.out`, `i.err` and `i.code` hold what the i-th said.
"""

import importlib
import json
import os
import runpy
import sys

PACKAGE, COMMANDS = sys.argv[1], json.loads(sys.argv[2])
for name in ("torch", "torch.utils.tensorboard", f"{PACKAGE}.cli", "matplotlib.figure"):
    importlib.import_module(name)
sys.path.insert(0, os.getcwd())

for i, arguments in enumerate(COMMANDS):
    child = os.fork()
    if not child:
        for stream, ending in ((1, "out"), (2, "err")):
            os.dup2(os.open(f"{i}.{ending}", os.O_CREAT | os.O_WRONLY), stream)
        sys.argv = ["train.py", *arguments]
        runpy.run_path("train.py", run_name="__main__")
        sys.exit()
    with open(f"{i}.code", "w") as file:
        file.write(str(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])))
