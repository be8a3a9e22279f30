"""What is measured of each agent framework. A module is imported only in the environment of its adapter."""
