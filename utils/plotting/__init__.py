"""Everything that is drawn: colours, label maps, surfaces, the interactive page, ROI figures, exported volumes."""
