"""`jobstatus demo`: run a real job over real files, and read its status from the HTTP service."""

from jobstatus_service.demo.demo import run

__all__ = ["run"]
