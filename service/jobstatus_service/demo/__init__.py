"""`jobstatus demo`: a real job over real files, seen through the HTTP service."""

from jobstatus_service.demo.demo import run

__all__ = ["run"]
