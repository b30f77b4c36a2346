"""What Stable-Baselines3 needs of ours."""
