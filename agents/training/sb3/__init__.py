"""What training needs of Stable-Baselines3: algorithms, their exploration, their environment."""
