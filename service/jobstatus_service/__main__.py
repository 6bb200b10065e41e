"""`python -m jobstatus_service` does the same as the console script `jobstatus`."""

from jobstatus_service.command import main

main()
