"""The JavaScript client, its element and React hooks, and the web page: package data, no Python."""
