-- When a second machine was refused that came with the identity of this node, while the node's link beat.
ALTER TABLE nodes ADD COLUMN second_machine_at INTEGER;
