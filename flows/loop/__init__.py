"""The state machine that takes a dataset through its rounds: plan, steps, what can go on without
people.
"""
