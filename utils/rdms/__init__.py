"""From images and networks, and from beta maps, to representational dissimilarity matrices."""
