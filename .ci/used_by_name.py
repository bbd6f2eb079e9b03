"""What vulture takes for unused although something uses it by its name; `poe lint` reads it, nothing imports it.

Each group says why. A name that nothing uses does not get here, it is deleted from the code.
"""

# click passes a command's options by name, and calls these methods of its groups.
show_traceback
_.format_commands
_.get_command
_.get_completion_args
_.source_template
source_template

# The child process that asks plugins is given this function by its name.
write_answer

# Offered to commands of plugins: names of formats after an option.
complete_formats

# Facts of summary.json that sweeps, pages and users read.
_.selected_accuracy
_.skipped_steps

# Fields of the reports that observers get: `metrics.jsonl` and `--json` write all of them, through attrs.
_.window_high
_.grad_norm_images

# The hooks of formats name readers and writers as `module:attribute`.
read_safetensors
write_safetensors
read_npz
write_npz
read_mtt
write_mtt
read_imagefolder
write_imagefolder

# `dsa` finds the method of an augmentation family by the family's name.
_.apply_color
_.apply_crop
_.apply_cutout
_.apply_flip
_.apply_rotate
_.apply_scale

# Limits that reprlib.Repr reads from its own instance.
_.maxlevel
_.maxlong
_.maxother
_.maxstring

# Set on a frozen component only to see that this is refused.
_.a_name_that_is_new

# Called by rich where the reader of a pipe went away.
_.on_broken_pipe

# Sections of `ddfw bench --preset gpu`, which its table names as `module:function`.
contract
contract_compiled
outer_ipc1
outer_ipc10
outer_ipc50
waits

# The standard library's warnings are shown through it.
_.showwarning
