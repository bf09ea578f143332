"""What a mapped network takes as a machine: stages and their schedule, energy, power and area, replicas of layers."""
