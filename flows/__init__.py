"""What runs when: Prefect flows, commands and services; the only package that imports Prefect."""
