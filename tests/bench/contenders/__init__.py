"""What the service is measured against: each an application of its own."""
