"""The state machine that takes a dataset through its rounds: plan, rounds, advance."""
