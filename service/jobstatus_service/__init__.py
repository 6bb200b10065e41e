"""The HTTP service, which answers "is it done yet?". Its application: `http.app.create_app`."""
