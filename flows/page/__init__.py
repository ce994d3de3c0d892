"""Composition of the annotation page: the app over a workspace, the dashboard's buttons, the
commands that they start.
"""
