"""Generated data: the demo's films, and the example shop with its pipeline."""

from pathlib import Path

# The declaration of the example shop's pipeline.
SHOP_PIPELINE = Path(__file__).with_name("shop.yaml")
