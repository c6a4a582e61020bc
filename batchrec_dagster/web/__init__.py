"""The code that both HTTP servers share: their host names, their limits, and their guards."""
