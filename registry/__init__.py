"""An OCI registry: the rules of repositories, tags, manifests, blobs and referrers."""
