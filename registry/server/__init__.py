"""The edge to the network: sockets, processes, and the HTTP protocol that hands over body pieces."""
