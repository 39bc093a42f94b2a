"""Files that are whole or absent, archives read strictly, places on disks and at URLs, and how they are told."""
