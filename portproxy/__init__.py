"""A TCP relay between IP families, in netsh interface portproxy's own words."""
