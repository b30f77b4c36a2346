"""The scenario: everything that decides what the simulator does."""
