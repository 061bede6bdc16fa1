collect_ignore_glob = ["*.py"]  # scripts: importing one runs it
