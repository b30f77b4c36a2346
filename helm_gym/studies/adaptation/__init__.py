"""What the online adapter does when the workload drifts."""
