"""Draws charts as SVG: one drawing for light and dark pages, without scripts and style attributes.

Colours are CSS variables of the page, because they differ between light and dark pages. Shapes have
attributes only, because the page's policy forbids inline styles.
"""
