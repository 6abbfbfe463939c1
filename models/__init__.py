"""The networks whose representations are compared with the brain."""
