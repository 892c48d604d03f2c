"""What the machine does: motion, media, engines, the command line. Nothing here knows about the page."""
