-- What the sandbox had in memory is kept with its files, on the host that has the layer.
ALTER TABLE layers ADD COLUMN memory BOOLEAN NOT NULL DEFAULT FALSE;
