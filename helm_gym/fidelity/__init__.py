"""The fidelity card: what the models were compared with, on how many points, with what error."""
