"""The registry of jobs that Prefect can start; their flows, deployments, schedules and triggers."""
