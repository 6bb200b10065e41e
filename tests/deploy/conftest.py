"""What the deployment's tests share with the service's and the workers'."""

from tests.service.conftest import put
from tests.worker.arq.conftest import pool

__all__ = ["pool", "put"]
