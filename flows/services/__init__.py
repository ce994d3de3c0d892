"""The services of `dataengine up`: definitions, the supervisor, the guard of each process."""
