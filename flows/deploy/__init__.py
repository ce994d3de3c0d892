"""What Prefect starts by itself: the flows of the deployments, their schedules and triggers,
starting one now.
"""
