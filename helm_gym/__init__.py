"""Gymnasium environments for EMB-KV cache splitting in recommender serving."""
