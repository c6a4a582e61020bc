"""What both HTTP servers share: by which names clients reach them, and who may send requests."""
