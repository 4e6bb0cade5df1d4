"""What several objectives share: masked frames, two views, log-mel targets, teachers, classes of utterances."""
