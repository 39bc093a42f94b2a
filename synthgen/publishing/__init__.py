"""A finished set for others: card, Croissant, uploads, exports in other layouts."""
