"""The edge to the network, from both sides."""
