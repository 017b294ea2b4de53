"""The beginning of a user's method file, as text: imports, and a method that raises."""

BROKEN = '''
import torch
from mmbal_cli.methods.base import Card, Method, knob

class Broken(Method):
    """Raises in the middle of training."""
    card = Card("broken", "loss")
    def loss(self, out, batch):
        raise ValueError("no such thing")
'''
