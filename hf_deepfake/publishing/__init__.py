"""Model cards, and what is uploaded to the Hub."""
