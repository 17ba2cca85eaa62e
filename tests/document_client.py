"""Stands for ``python`` where commands of the documents are run: hands them to the server of document_server.py."""

import json
import os
import socket
import sys
from pathlib import Path

with socket.socket(socket.AF_UNIX) as connection:
    connection.connect(os.environ["DOCUMENT_SERVER"])
    request = {"folder": str(Path.cwd()), "arguments": sys.argv[1:], "log": os.environ["DOCUMENT_LOG"]}
    connection.sendall(json.dumps(request).encode() + b"\n")
    sys.exit(int(connection.makefile().readline() or 1))
