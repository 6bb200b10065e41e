"""The commands of `jobstatus` that read the status of jobs, such as get, wait and list."""
