"""What an objective predicts when it is made offline: k-means units, MFCC, features of a layer."""
