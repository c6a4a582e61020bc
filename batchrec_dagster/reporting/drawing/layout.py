"""The sizes that all charts share, so that their texts are of one size on the page."""

# Pixels of the drawing, which the page scales to its column.
WIDTH = 340
# The space around a chart.
MARGIN = 4
LINE_HEIGHT = 18
# The space between a label and the plot.
LABEL_GAP = 6
FONT_SIZE = 12
# How far below its middle a line of text stands on its baseline.
BASELINE = 4
