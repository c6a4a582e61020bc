"""Generated data: the demo's films, the tutorial's orders, the example shop and its pipeline."""

from pathlib import Path

# The declaration of the example shop's pipeline.
SHOP_PIPELINE = Path(__file__).with_name("shop.yaml")
