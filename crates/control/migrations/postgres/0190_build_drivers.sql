-- What a build's product can be run by: `auto`, or `vm` when its steps were carried out in a virtual machine, whose disk
-- is what its sandboxes begin with.
ALTER TABLE template_builds ADD COLUMN driver TEXT NOT NULL DEFAULT 'auto';
