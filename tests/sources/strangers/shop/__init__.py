"""A user's package: networks written the way strangers write them. It knows nothing of edgekit."""
