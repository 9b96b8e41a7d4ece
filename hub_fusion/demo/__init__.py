"""The loop in small: real images, seven contributors, a base that gets better. See `digits` and `training`."""
