"""The HTTP service: it answers "is it done yet?". The application: `http.app.create_app`."""
