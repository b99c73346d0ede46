"""Fine-tuning over `transformers.Trainer`."""
