"""Reading records from Redis: the connection, batches, one server or a Cluster."""
