"""Where status is kept: clients of Redis, the writes of records, one server or a Cluster."""
