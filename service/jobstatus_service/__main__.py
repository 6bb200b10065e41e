"""`python -m jobstatus_service`: the same as `jobstatus`."""

from jobstatus_service.command import main

main()
