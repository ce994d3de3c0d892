"""Operations on a workspace: status, dashboard figures, metrics, health checks, sweep, compaction,
backup, erasure.
"""
