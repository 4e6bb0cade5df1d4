"""What several objectives share: masked frames, log-mel targets, teachers."""
