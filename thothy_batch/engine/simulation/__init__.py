"""Runs the scheduler on a simulated device to predict time. No torch."""

from thothy_batch.engine.simulation.prediction import Prediction, predict, request_costs

__all__ = ["Prediction", "predict", "request_costs"]
