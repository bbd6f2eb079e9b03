"""The numerics of distillation: functions of tensors and typed settings, which read no files and no configuration."""
