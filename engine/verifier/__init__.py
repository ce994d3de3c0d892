"""The verifier: learns from reviewers' verdicts which automatic masks they would accept."""
