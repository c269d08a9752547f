"""The routing space, the weight-shared supernet and the router."""
