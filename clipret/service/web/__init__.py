"""The web service: routes, what protects them, and the server. Starlette and uvicorn are imported here alone."""
