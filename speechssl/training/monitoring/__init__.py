"""What a run says of itself: metrics, health, validation, where its time goes."""
