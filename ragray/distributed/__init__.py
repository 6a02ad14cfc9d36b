"""One file per stage: wires a room to Ray Data, Ray Train or Ray tasks."""
