"""The deployed controller: telemetry in, shares out."""
