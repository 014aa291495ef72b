"""What hubsync says about itself: its log, its status and its word to the service manager."""
