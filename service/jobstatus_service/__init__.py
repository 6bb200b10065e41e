"""Answer "is it done yet?" over HTTP. The application is `jobstatus_service.app.create_app`."""
