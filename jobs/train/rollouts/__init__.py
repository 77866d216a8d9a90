"""What all algorithms of reinforcement learning share: rewards, rollouts in checkpoints, samples, limits."""
