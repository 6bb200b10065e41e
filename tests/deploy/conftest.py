"""What the deployment's tests share with the service's."""

from tests.service.conftest import put

__all__ = ["put"]
