"""Real servers: PostgreSQL, S3, Prefect, Ray."""
