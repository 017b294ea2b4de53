"""mmbal: compare multimodal balancing methods fairly, cheaply and correctly."""

__version__ = "0.1.0"
