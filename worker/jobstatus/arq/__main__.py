"""`python -m jobstatus.arq app.WorkerSettings` is the command `jobstatus-worker`."""

from jobstatus.arq.command import cli

cli(prog_name="python -m jobstatus.arq")
