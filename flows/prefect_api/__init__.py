"""Access to Prefect: client, events, a temporary server, our server application."""
