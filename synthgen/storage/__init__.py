"""Where files stand: folders and stores."""
