"""Killed processes, outages, races and full disks."""
