"""Ray Serve deployments: retriever, generator, ingress, and the web page."""
